//! Batches over HTTP, in the shapes that receivers know.

#[cfg(feature = "grpc")]
pub(super) mod grpc;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Method, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use prost::Message as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json, value::RawValue};

use super::{Brief, Failure, Runtime, encode, encoded, parse, patience, together};
use crate::{
    config::Time,
    delivery::Item,
    format::{self, Format, OtlpRequest, OtlpResponse},
    http::{self, Connection, Server, sensitive},
    tls::{self, Credentials, Secret},
};

/// An answer is not read further.
const MOST_ANSWER: usize = 4 << 20;
/// A receiver that asks for more patience is asked again before.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The shape of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// One record a line.
    #[default]
    Ndjson,
    /// Splunk's HTTP Event Collector.
    SplunkHec,
    /// The bulk interface of Elasticsearch and OpenSearch.
    Elasticsearch,
    /// Grafana Loki's push interface.
    Loki,
    /// A batch of CloudEvents 1.0.
    Cloudevents,
    /// OpenTelemetry's log records, as protobuf.
    Otlp,
    /// The same by gRPC.
    #[cfg(feature = "grpc")]
    OtlpGrpc,
}

impl Preset {
    /// Where it usually is.
    const fn path(self) -> &'static str {
        match self {
            Self::Ndjson | Self::Cloudevents => "/",
            Self::SplunkHec => "/services/collector/event",
            Self::Elasticsearch => "/_bulk",
            Self::Loki => "/loki/api/v1/push",
            Self::Otlp => "/v1/logs",
            #[cfg(feature = "grpc")]
            Self::OtlpGrpc => grpc::METHOD,
        }
    }

    /// Whether the format is its own.
    pub(super) const fn is_otlp(self) -> bool {
        match self {
            Self::Otlp => true,
            #[cfg(feature = "grpc")]
            Self::OtlpGrpc => true,
            _ => false,
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson | Self::Elasticsearch => "application/x-ndjson",
            Self::SplunkHec | Self::Loki => "application/json",
            Self::Cloudevents => "application/cloudevents-batch+json",
            Self::Otlp => "application/x-protobuf",
            #[cfg(feature = "grpc")]
            Self::OtlpGrpc => "application/grpc",
        }
    }
}

/// Where to send, and as whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `https://HOST:PORT/PATH`; a preset knows its path.
    pub url: Url,
    /// The shape of a batch.
    #[serde(default)]
    pub preset: Preset,
    /// How records are written.
    #[serde(default)]
    pub format: Format,
    /// Elasticsearch: the index. Splunk: likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// Loki: labels beside `job`, `node` and `kind`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// A file with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// A file with the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Further headers.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "hidden"
    )]
    pub headers: BTreeMap<String, String>,
    /// Whether batches are packed by gzip.
    #[serde(default)]
    pub compress: bool,
    /// How long to wait for an answer.
    #[serde(default = "patience")]
    pub timeout: Time,
    /// Certificates of those who may sign the receiver's; those of the system else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The name that the receiver's certificate must have, where that is not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Headers may hold what nobody is to see.
fn hidden<S: Serializer>(
    headers: &BTreeMap<String, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.keys().map(|name| (name, "(not shown)")))
}

/// An address without secrets in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Url(String);

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // It may have a password in it: it is not repeated.
        let uri: Uri = text
            .parse()
            .map_err(|_| "not an address such as https://HOST:PORT/PATH")?;
        if uri.authority().is_some_and(|it| it.as_str().contains('@')) {
            return Err(
                "an address with a password in it; use username and password_file".to_owned(),
            );
        }
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(format!(
                "{text:?} is not an address such as https://HOST:PORT/PATH"
            ));
        }
        Ok(Self(text))
    }
}

impl From<Url> for String {
    fn from(url: Url) -> Self {
        url.0
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), String> {
        together(("cert_file", &self.cert_file), ("key_file", &self.key_file))?;
        together(
            ("username", &self.username),
            ("password_file", &self.password_file),
        )?;
        #[cfg(feature = "grpc")]
        if self.preset == Preset::OtlpGrpc && self.compress {
            return Err("otlp-grpc does not compress".to_owned());
        }
        if self.url.0.starts_with("https:") {
            self.credentials()
                .tls()
                .map_err(|error| error.to_string())?;
        }
        self.headers().map(drop).map_err(|error| error.to_string())
    }

    fn credentials(&self) -> Credentials {
        Credentials::of_files(
            &self.ca_file,
            &self.cert_file,
            &self.key_file,
            &self.server_name,
        )
    }

    /// Read anew for each request: tokens are renewed while the program runs.
    fn headers(&self) -> Result<HeaderMap, http::Error> {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static(self.preset.content_type());
        headers.insert(header::CONTENT_TYPE, kind);
        for (name, value) in &self.headers {
            let wrong = |_| tls::Error::Credentials(format!("headers: {name} is no header"));
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(()))?;
            headers.insert(
                key,
                sensitive(value.as_bytes(), &format!("headers: {name}"))?,
            );
        }
        if let Some(path) = &self.token_file {
            let token = Secret::File(path.clone());
            let scheme: &[u8] = match self.preset {
                Preset::SplunkHec => b"Splunk ",
                _ => b"Bearer ",
            };
            let bytes = [scheme, token.read()?.trim_ascii()].concat();
            headers.insert(header::AUTHORIZATION, sensitive(&bytes, &token.name())?);
        } else if let (Some(user), Some(path)) = (&self.username, &self.password_file) {
            let password = Secret::File(path.clone());
            let both = [user.as_bytes(), b":", password.read()?.trim_ascii()].concat();
            let bytes = format!("Basic {}", STANDARD.encode(both));
            headers.insert(
                header::AUTHORIZATION,
                sensitive(bytes.as_bytes(), &password.name())?,
            );
        }
        Ok(headers)
    }

    fn path(&self) -> String {
        let uri: Option<Uri> = self.url.0.parse().ok();
        let path = uri.as_ref().and_then(Uri::path_and_query);
        match path.map_or("/", |path| path.as_str()) {
            "/" => self.preset.path().to_owned(),
            path => path.to_owned(),
        }
    }

    /// The batch, in its shape.
    fn body(&self, items: &[Item]) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        match self.preset {
            Preset::Ndjson => {
                for item in items {
                    encode(self.format, item, &mut body)?;
                }
            }
            Preset::Elasticsearch => {
                for item in items {
                    let id: Brief<'_> = parse(item)?;
                    let index = self.index.as_deref().unwrap_or("oomtrace");
                    let action = json!({"create": {"_index": index, "_id": id.id()}});
                    append(&action, &mut body)?;
                    body.push(b'\n');
                    encode(self.format, item, &mut body)?;
                }
            }
            Preset::SplunkHec => {
                for item in items {
                    append(&self.splunk(item)?, &mut body)?;
                }
            }
            Preset::Cloudevents => {
                let events: Result<Vec<_>, _> =
                    items.iter().map(|item| self.cloudevent(item)).collect();
                append(&events?, &mut body)?;
            }
            Preset::Loki => append(&self.loki(items)?, &mut body)?,
            Preset::Otlp => body = request(items)?.encode_to_vec(),
            #[cfg(feature = "grpc")]
            Preset::OtlpGrpc => body = request(items)?.encode_to_vec(),
        }
        Ok(body)
    }

    /// The record in its format, to be put into something else.
    fn payload(&self, item: &Item) -> Result<Box<RawValue>, Failure> {
        serde_json::from_slice(&encoded(self.format, item)?)
            .map_err(|error| Failure::Refused(format!("it is no JSON: {error}")))
    }

    fn splunk(&self, item: &Item) -> Result<impl Serialize, Failure> {
        #[derive(Serialize)]
        struct Entry {
            #[serde(skip_serializing_if = "Option::is_none")]
            time: Option<Box<RawValue>>,
            host: String,
            source: &'static str,
            sourcetype: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            index: Option<String>,
            event: Box<RawValue>,
            fields: Value,
        }
        let brief: Brief<'_> = parse(item)?;
        // Seconds, as a number with all its digits.
        let time = brief.time_unix_ns.as_ref().and_then(|ns| {
            let ns: u64 = ns.parse().ok()?;
            let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
            RawValue::from_string(text).ok()
        });
        Ok(Entry {
            time,
            host: brief.hostname().to_owned(),
            source: "oomtrace",
            sourcetype: "oomtrace:event",
            index: self.index.clone(),
            event: self.payload(item)?,
            fields: json!({"event_id": brief.event_id, "kind": brief.kind}),
        })
    }

    fn cloudevent(&self, item: &Item) -> Result<impl Serialize, Failure> {
        #[derive(Serialize)]
        struct CloudEvent {
            specversion: &'static str,
            id: String,
            source: String,
            r#type: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            time: Option<String>,
            datacontenttype: &'static str,
            data: Box<RawValue>,
        }
        let brief: Brief<'_> = parse(item)?;
        Ok(CloudEvent {
            specversion: "1.0",
            id: brief.id().into_owned(),
            source: format!("/oomtrace/{}", escaped(brief.hostname())),
            r#type: format!("oomtrace.{}", brief.kind),
            time: brief.time.as_ref().map(|time| time.clone().into_owned()),
            datacontenttype: "application/json",
            data: self.payload(item)?,
        })
    }

    /// A stream for each node and kind: few, however many pods there are.
    fn loki(&self, items: &[Item]) -> Result<Value, Failure> {
        let mut streams: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
        for item in items {
            let brief: Brief<'_> = parse(item)?;
            let line = encoded(self.format, item)?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let stream = (brief.hostname().to_owned(), brief.kind.clone().into_owned());
            let time = brief.time_unix_ns.as_deref().unwrap_or("0");
            streams.entry(stream).or_default().push(json!([time, line]));
        }
        let streams: Vec<_> = streams
            .into_iter()
            .map(|((node, kind), values)| {
                let mut labels = self.labels.clone();
                for (name, value) in [
                    ("job", "oomtrace".to_owned()),
                    ("node", node),
                    ("kind", kind),
                ] {
                    labels.entry(name.to_owned()).or_insert(value);
                }
                json!({"stream": labels, "values": values})
            })
            .collect();
        Ok(json!({"streams": streams}))
    }
}

fn request(items: &[Item]) -> Result<OtlpRequest, Failure> {
    format::otlp(items.iter().map(parse))
}

fn append(value: &impl Serialize, out: &mut Vec<u8>) -> Result<(), Failure> {
    serde_json::to_writer(out, value)
        .map_err(|error| Failure::Refused(format!("it cannot be written: {error}")))
}

/// A name as a part of a path.
fn escaped(name: &str) -> String {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| match fine(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    name.bytes().map(escape).collect()
}

/// A server that takes batches.
pub(super) struct Sink {
    settings: Settings,
    runtime: Runtime,
    /// Kept while there is more to send.
    connection: Option<Connection>,
}

impl Sink {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            runtime: Runtime::new(),
            connection: None,
        }
    }

    fn later(&self, why: impl std::fmt::Display) -> Failure {
        Failure::later(format!("{}: {why}", self.settings.url.0))
    }

    async fn post(&mut self, items: &[Item]) -> Result<(), Failure> {
        let mut headers = self.settings.headers().map_err(|error| self.later(error))?;
        let mut body = self.settings.body(items)?;
        if self.settings.compress {
            body = packed(&body).map_err(|error| self.later(error))?;
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let body = Bytes::from(body);
        let path = self.settings.path();
        let kept = self.connection.take();
        let fresh = kept.is_none();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let patience = self.settings.timeout.0;
        let request = connection
            .request(Method::POST, &path, headers.clone(), body.clone())
            .map_err(|error| self.later(error))?;
        let answer = match connection.send(request, patience).await {
            // The server may have closed it meanwhile, as servers do.
            Err(http::Error::Network(_)) if !fresh => {
                connection = self.connect().await?;
                let request = connection
                    .request(Method::POST, &path, headers, body)
                    .map_err(|error| self.later(error))?;
                connection.send(request, patience).await
            }
            answer => answer,
        };
        let (status, headers, answer) = answer.map_err(|error| self.later(error))?;
        let answer = read(answer, patience)
            .await
            .map_err(|error| self.later(error))?;
        self.judge(status, &headers, &answer)?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let settings = &self.settings;
        let connect = async {
            Server::new(&settings.url.0, settings.credentials())?
                .connect()
                .await
        };
        connect.await.map_err(|error| self.later(error))
    }

    fn judge(&self, status: StatusCode, headers: &HeaderMap, answer: &[u8]) -> Result<(), Failure> {
        let said = || {
            let text = String::from_utf8_lossy(answer);
            let text: String = text
                .chars()
                .filter(|it| !it.is_control())
                .take(200)
                .collect();
            format!("it answered {status} {text}").trim_end().to_owned()
        };
        if status.is_success() {
            return match self.settings.preset {
                Preset::Elasticsearch => self.judge_bulk(answer),
                Preset::Otlp => match OtlpResponse::decode(answer) {
                    Ok(answer) => judge_otlp(answer),
                    Err(_) => Err(self.later("its answer is none of OTLP")),
                },
                _ => Ok(()),
            };
        }
        // Receivers of records do not answer with pages for people. A front does, of a client that has
        // no certificate, or speaks no TLS: that is not the record's fault.
        let page = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|it| it.as_bytes().starts_with(b"text/html"));
        match status {
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(Failure::Refused(said()))
            }
            StatusCode::BAD_REQUEST if !page => Err(Failure::Refused(said())),
            _ => Err(Failure::Later {
                why: format!("{}: {}", self.settings.url.0, said()),
                after: retry_after(headers),
            }),
        }
    }

    /// A bulk answer tells of each record.
    fn judge_bulk(&self, answer: &[u8]) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Answer {
            items: Vec<BTreeMap<String, Done>>,
        }
        #[derive(Deserialize)]
        struct Done {
            status: u16,
            #[serde(default)]
            error: Value,
        }
        let answer: Answer = serde_json::from_slice(answer).map_err(|error| {
            self.later(format!("its answer is none of a bulk request: {error}"))
        })?;
        let mut refused = None;
        for done in answer.items.iter().flat_map(BTreeMap::values) {
            let why = || format!("it answered {} for a record: {}", done.status, done.error);
            match done.status {
                // 409: it has it already.
                200..=299 | 409 => {}
                429 | 500..=599 => return Err(self.later(why())),
                _ => refused = Some(why()),
            }
        }
        refused.map_or(Ok(()), |why| Err(Failure::Refused(why)))
    }
}

/// It may have taken some of the records only.
fn judge_otlp(answer: OtlpResponse) -> Result<(), Failure> {
    let partial = answer.partial_success.unwrap_or_default();
    match partial.rejected_log_records {
        0 => Ok(()),
        _ => {
            let why = format!("it refuses records: {}", partial.error_message);
            Err(Failure::Refused(why))
        }
    }
}

impl super::Sink for Sink {
    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        let mut runtime = std::mem::replace(&mut self.runtime, Runtime::new());
        let sent = runtime.run(self.post(items));
        self.runtime = runtime;
        sent
    }

    fn rest(&mut self) {
        // Nobody would notice that the server closes it.
        self.connection = None;
    }
}

async fn read(body: Incoming, patience: Duration) -> Result<Bytes, String> {
    let body = tokio::time::timeout(patience, Limited::new(body, MOST_ANSWER).collect());
    match body.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(format!("its answer breaks off: {error}")),
        Err(_) => Err("its answer does not end".to_owned()),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

fn packed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes)?;
    packed.finish()
}
