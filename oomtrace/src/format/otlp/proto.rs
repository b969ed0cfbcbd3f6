//! The messages of OTLP 1.x for logs, as far as they are used: `opentelemetry/proto/logs/v1/logs.proto`,
//! `common/v1/common.proto`, `resource/v1/resource.proto` and `collector/logs/v1/logs_service.proto`.

use crate::messages::messages;

messages! {
    /// `ExportLogsServiceRequest`.
    Request {
        #[prost(message, repeated, tag = "1")]
        resource_logs: Vec<ResourceLogs>,
    }
    /// `ExportLogsServiceResponse`.
    Response {
        #[prost(message, optional, tag = "1")]
        partial_success: Option<PartialSuccess>,
    }
    /// `ExportLogsPartialSuccess`.
    PartialSuccess {
        #[prost(int64, tag = "1")]
        rejected_log_records: i64,
        #[prost(string, tag = "2")]
        error_message: String,
    }
    /// Records of one machine.
    ResourceLogs {
        #[prost(message, optional, tag = "1")]
        resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        scope_logs: Vec<ScopeLogs>,
    }
    /// The machine.
    Resource {
        #[prost(message, repeated, tag = "1")]
        attributes: Vec<KeyValue>,
    }
    /// Records of one program.
    ScopeLogs {
        #[prost(message, optional, tag = "1")]
        scope: Option<Scope>,
        #[prost(message, repeated, tag = "2")]
        log_records: Vec<LogRecord>,
    }
    /// `InstrumentationScope`.
    Scope {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(string, tag = "2")]
        version: String,
    }
    /// One record.
    LogRecord {
        #[prost(fixed64, tag = "1")]
        time_unix_nano: u64,
        #[prost(int32, tag = "2")]
        severity_number: i32,
        #[prost(string, tag = "3")]
        severity_text: String,
        #[prost(message, optional, tag = "5")]
        body: Option<AnyValue>,
        #[prost(message, repeated, tag = "6")]
        attributes: Vec<KeyValue>,
        #[prost(string, tag = "12")]
        event_name: String,
    }
    /// A member of an object, or an attribute.
    KeyValue {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(message, optional, tag = "2")]
        value: Option<AnyValue>,
    }
    /// A value.
    AnyValue {
        #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
        kind: Option<Kind>,
    }
    /// `ArrayValue`.
    Values {
        #[prost(message, repeated, tag = "1")]
        values: Vec<AnyValue>,
    }
    /// `KeyValueList`.
    KeyValues {
        #[prost(message, repeated, tag = "1")]
        values: Vec<KeyValue>,
    }
}

/// What kind of value.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// A text.
    #[prost(string, tag = "1")]
    String(String),
    /// Yes or no.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// A whole number.
    #[prost(int64, tag = "3")]
    Int(i64),
    /// Another number.
    #[prost(double, tag = "4")]
    Double(f64),
    /// A list.
    #[prost(message, tag = "5")]
    Array(Values),
    /// An object.
    #[prost(message, tag = "6")]
    Object(KeyValues),
}

// What a status of gRPC says of trying again: `google/rpc/status.proto` and `error_details.proto`.
#[cfg(feature = "grpc")]
messages! {
    /// `google.rpc.Status`.
    RpcStatus {
        #[prost(message, repeated, tag = "3")]
        details: Vec<Detail>,
    }
    /// `google.protobuf.Any`.
    Detail {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }
    /// `google.rpc.RetryInfo`.
    RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<Delay>,
    }
    /// `google.protobuf.Duration`.
    Delay {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }
}
