//! As much of a CRI client as it takes to run pods; a kubelet's part. The messages are those of
//! `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result};
use prost::Message;
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

macro_rules! messages {
    ($($name:ident { $($(#[$field:meta])* $key:ident: $type:ty,)* })*) => {
        $(
            #[derive(Clone, PartialEq, Message)]
            pub(super) struct $name {
                $($(#[$field])* pub(super) $key: $type,)*
            }
        )*
    };
}

messages! {
    RunPodSandboxRequest {
        #[prost(message, optional, tag = "1")]
        config: Option<PodSandboxConfig>,
    }
    PodSandboxConfig {
        #[prost(message, optional, tag = "1")]
        metadata: Option<PodSandboxMetadata>,
        #[prost(map = "string, string", tag = "6")]
        labels: HashMap<String, String>,
        #[prost(message, optional, tag = "8")]
        linux: Option<LinuxPodSandboxConfig>,
    }
    PodSandboxMetadata {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(string, tag = "2")]
        uid: String,
        #[prost(string, tag = "3")]
        namespace: String,
    }
    LinuxPodSandboxConfig {
        #[prost(string, tag = "1")]
        cgroup_parent: String,
        #[prost(message, optional, tag = "2")]
        security_context: Option<LinuxSandboxSecurityContext>,
    }
    LinuxSandboxSecurityContext {
        #[prost(message, optional, tag = "1")]
        namespace_options: Option<NamespaceOption>,
    }
    NamespaceOption {
        #[prost(int32, tag = "1")]
        network: i32,
    }
    CreateContainerRequest {
        #[prost(string, tag = "1")]
        pod_sandbox_id: String,
        #[prost(message, optional, tag = "2")]
        config: Option<ContainerConfig>,
        #[prost(message, optional, tag = "3")]
        sandbox_config: Option<PodSandboxConfig>,
    }
    ContainerConfig {
        #[prost(message, optional, tag = "1")]
        metadata: Option<ContainerMetadata>,
        #[prost(message, optional, tag = "2")]
        image: Option<ImageSpec>,
        #[prost(string, repeated, tag = "3")]
        command: Vec<String>,
        #[prost(map = "string, string", tag = "9")]
        labels: HashMap<String, String>,
        #[prost(message, optional, tag = "15")]
        linux: Option<LinuxContainerConfig>,
    }
    ContainerMetadata {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(uint32, tag = "2")]
        attempt: u32,
    }
    ImageSpec {
        #[prost(string, tag = "1")]
        image: String,
    }
    LinuxContainerConfig {
        #[prost(message, optional, tag = "1")]
        resources: Option<LinuxContainerResources>,
        #[prost(message, optional, tag = "2")]
        security_context: Option<LinuxContainerSecurityContext>,
    }
    LinuxContainerResources {
        #[prost(int64, tag = "4")]
        memory_limit_in_bytes: i64,
    }
    LinuxContainerSecurityContext {
        #[prost(message, optional, tag = "3")]
        namespace_options: Option<NamespaceOption>,
    }
    // Both a request that names a thing by its id, and an answer that is one.
    Id {
        #[prost(string, tag = "1")]
        id: String,
    }
    Nothing {}
}

/// `NODE` of `NamespaceMode`: the host's network.
pub(super) const HOST_NETWORK: NamespaceOption = NamespaceOption { network: 2 };

pub(super) struct Cri {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Cri {
    pub(super) fn new(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect_lazy()
        };
        Ok(Self { runtime, channel })
    }

    pub(super) fn call<Q, A>(&self, method: &str, request: Q) -> Result<A>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse()?;
        let answer = self.runtime.block_on(async {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            let answer = grpc.unary(Request::new(request), path, codec).await;
            anyhow::Ok(answer?.into_inner())
        });
        answer.with_context(|| method.to_owned())
    }
}
