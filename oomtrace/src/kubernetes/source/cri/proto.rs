//! The messages of the CRI that are used, and of them the fields.
//!
//! Tags are those of `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`; fields that are not named here
//! are skipped.

use std::collections::HashMap;

use crate::messages::messages;

messages! {
    /// Asks for name and version of the runtime.
    VersionRequest {}
    /// They.
    VersionResponse {
        #[prost(string, tag = "2")]
        runtime_name: String,
        #[prost(string, tag = "3")]
        runtime_version: String,
    }
    /// Asks for pods.
    ListPodSandboxRequest {
        #[prost(message, optional, tag = "1")]
        filter: Option<PodSandboxFilter>,
    }
    /// Which pods.
    PodSandboxFilter {
        #[prost(map = "string, string", tag = "3")]
        label_selector: HashMap<String, String>,
    }
    /// They.
    ListPodSandboxResponse {
        #[prost(message, repeated, tag = "1")]
        items: Vec<PodSandbox>,
    }
    /// A pod, by its pause container.
    PodSandbox {
        #[prost(string, tag = "1")]
        id: String,
        #[prost(message, optional, tag = "2")]
        metadata: Option<PodSandboxMetadata>,
        #[prost(map = "string, string", tag = "5")]
        labels: HashMap<String, String>,
        #[prost(map = "string, string", tag = "6")]
        annotations: HashMap<String, String>,
    }
    /// Its name.
    PodSandboxMetadata {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(string, tag = "2")]
        uid: String,
        #[prost(string, tag = "3")]
        namespace: String,
    }
    /// Asks for one pod.
    PodSandboxStatusRequest {
        #[prost(string, tag = "1")]
        pod_sandbox_id: String,
    }
    /// It.
    PodSandboxStatusResponse {
        #[prost(message, optional, tag = "1")]
        status: Option<PodSandboxStatus>,
    }
    /// A pod, by its pause container.
    PodSandboxStatus {
        #[prost(string, tag = "1")]
        id: String,
        #[prost(message, optional, tag = "2")]
        metadata: Option<PodSandboxMetadata>,
        #[prost(map = "string, string", tag = "7")]
        labels: HashMap<String, String>,
        #[prost(map = "string, string", tag = "8")]
        annotations: HashMap<String, String>,
    }
    /// Asks for containers.
    ListContainersRequest {}
    /// They.
    ListContainersResponse {
        #[prost(message, repeated, tag = "1")]
        containers: Vec<Container>,
    }
    /// A container.
    Container {
        #[prost(string, tag = "1")]
        id: String,
        #[prost(string, tag = "2")]
        pod_sandbox_id: String,
        #[prost(message, optional, tag = "3")]
        metadata: Option<ContainerMetadata>,
        #[prost(message, optional, tag = "4")]
        image: Option<ImageSpec>,
        #[prost(map = "string, string", tag = "8")]
        labels: HashMap<String, String>,
    }
    /// Its name, and how often it was restarted.
    ContainerMetadata {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(uint32, tag = "2")]
        attempt: u32,
    }
    /// An image; the kubelet names it by its digest, and as the user did where it is new enough.
    ImageSpec {
        #[prost(string, tag = "1")]
        image: String,
        #[prost(string, tag = "18")]
        user_specified_image: String,
    }
    /// Asks for one container.
    ContainerStatusRequest {
        #[prost(string, tag = "1")]
        container_id: String,
    }
    /// It.
    ContainerStatusResponse {
        #[prost(message, optional, tag = "1")]
        status: Option<ContainerStatus>,
    }
    /// A container.
    ContainerStatus {
        #[prost(string, tag = "1")]
        id: String,
        #[prost(message, optional, tag = "2")]
        metadata: Option<ContainerMetadata>,
        #[prost(message, optional, tag = "8")]
        image: Option<ImageSpec>,
        #[prost(map = "string, string", tag = "12")]
        labels: HashMap<String, String>,
    }
    /// Asks to be told of what happens.
    GetEventsRequest {}
    /// It.
    ContainerEventResponse {
        #[prost(string, tag = "1")]
        container_id: String,
        #[prost(int32, tag = "2")]
        container_event_type: i32,
        #[prost(message, optional, tag = "4")]
        pod_sandbox_status: Option<PodSandboxStatus>,
        #[prost(message, repeated, tag = "5")]
        containers_statuses: Vec<ContainerStatus>,
    }
}

/// `CONTAINER_DELETED_EVENT` of [`ContainerEventResponse::container_event_type`].
pub const DELETED: i32 = 3;
