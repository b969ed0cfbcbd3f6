//! OpenTelemetry's log records by gRPC (OTLP/gRPC).

use std::{
    error,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{Uri, header};
use hyper_util::rt::TokioIo;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::{Service, http::uri::PathAndQuery},
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{LONGEST_WAIT, MOST_ANSWER, Settings, judge_otlp, request};
use crate::{
    delivery::Item,
    format::{self, OtlpRequest, OtlpResponse},
    net::{self, Stream},
    sink::{Failure, Runtime},
};

/// What is called.
pub(super) const METHOD: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// Connects, and again where the server has closed a connection between two requests, with what the files
/// of secrets hold then.
struct Connector(Settings);

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = net::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, net::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), net::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = uri.scheme_str() == Some("https");
        let mut credentials = self.0.credentials();
        credentials.protocol = Some("h2");
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let port = uri.port_u16().unwrap_or(4317);
            let stream = net::connect(host, port, tls.then_some(&credentials)).await?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// A collector.
pub(in crate::sink) struct Sink {
    settings: Settings,
    runtime: Runtime,
    /// Kept while there is more to send.
    channel: Option<Channel>,
}

impl Sink {
    pub(in crate::sink) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            runtime: Runtime::new(),
            channel: None,
        }
    }
}

fn later(settings: &Settings, why: impl std::fmt::Display) -> Failure {
    Failure::later(format!("{}: {why}", settings.url.0))
}

async fn connect(settings: &Settings) -> Result<Channel, Failure> {
    Endpoint::from_shared(settings.url.0.clone())
        .map_err(|error| later(settings, innermost(&error)))?
        .connect_with_connector(Connector(settings.clone()))
        .await
        .map_err(|error| later(settings, innermost(&error)))
}

async fn export(
    settings: &Settings,
    channel: Channel,
    batch: OtlpRequest,
) -> Result<OtlpResponse, Failure> {
    let mut headers = settings.headers().map_err(|error| later(settings, error))?;
    headers.remove(header::CONTENT_TYPE);
    let mut request = Request::new(batch);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MOST_ANSWER);
    grpc.ready()
        .await
        .map_err(|error| later(settings, innermost(&error)))?;
    let codec = ProstCodec::<OtlpRequest, OtlpResponse>::default();
    grpc.unary(request, PathAndQuery::from_static(METHOD), codec)
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| judge(settings, &status))
}

/// What the specification says may be tried again is; so is what is about the receiver and not about
/// the records, as credentials are.
fn judge(settings: &Settings, status: &Status) -> Failure {
    let after = format::otlp_retry_after(status.details());
    let text = error::Error::source(status).map_or_else(|| status.message().to_owned(), innermost);
    let text: String = text
        .chars()
        .filter(|it| !it.is_control())
        .take(200)
        .collect();
    let why = format!("{}: {}: {text}", settings.url.0, status.code());
    match (status.code(), after) {
        // Without a time to come back, it means that the message is too large.
        (Code::InvalidArgument, _) | (Code::ResourceExhausted, None) => Failure::Refused(why),
        // The same of a front that speaks HTTP only, as tonic tells of its answer with a page or without.
        (Code::Internal | Code::Unknown, _)
            if why.contains("status: 413 ") || why.ends_with("status code 413") =>
        {
            Failure::Refused(why)
        }
        (_, after) => Failure::Later {
            why,
            after: after.map(|after| after.min(LONGEST_WAIT)),
        },
    }
}

fn innermost(error: &dyn error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

impl crate::sink::Sink for Sink {
    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        let settings = &self.settings;
        let kept = self.channel.take();
        let work = async {
            let batch = request(items)?;
            let channel = match kept {
                Some(channel) => channel,
                None => connect(settings).await?,
            };
            let answer = export(settings, channel.clone(), batch).await;
            Ok((channel, answer.and_then(judge_otlp)))
        };
        let slow = |within| later(settings, format!("no answer {within}"));
        let (channel, sent) = self.runtime.run_within(settings.timeout, slow, work)?;
        if !matches!(sent, Err(Failure::Later { .. })) {
            self.channel = Some(channel);
        }
        sent
    }

    fn rest(&mut self) {
        // Nobody would notice that the server closes it.
        self.channel = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::codegen::Bytes;

    use super::*;

    /// A status with a `RetryInfo` of two seconds.
    const RETRY: &[u8] = b"\x08\x08\x1a\x30\x0a\x28type.googleapis.com/google.rpc.RetryInfo\
        \x12\x04\x0a\x02\x08\x02";

    /// What may be tried again, when, and what never.
    #[test]
    fn statuses() {
        let settings: Settings = serde_json::from_str(r#"{"url":"http://h","preset":"otlp-grpc"}"#)
            .unwrap_or_else(|error| panic!("{error}"));
        let judged = |code, details: &'static [u8]| {
            let status = Status::with_details(code, "why", Bytes::from_static(details));
            judge(&settings, &status)
        };
        for code in [
            Code::Unavailable,
            Code::Aborted,
            Code::Unauthenticated,
            Code::Internal,
        ] {
            let failure = judged(code, b"");
            assert!(
                matches!(failure, Failure::Later { after: None, .. }),
                "{code}"
            );
        }
        for code in [Code::InvalidArgument, Code::ResourceExhausted] {
            assert!(matches!(judged(code, b""), Failure::Refused(_)), "{code}");
        }
        let Failure::Later { after, .. } = judged(Code::ResourceExhausted, RETRY) else {
            panic!("it is refused");
        };
        assert_eq!(after, Some(Duration::from_secs(2)));
    }
}
