//! NATS JetStream. Every record has the receipt of the stream (`PubAck`) before it counts as delivered,
//! and a name (`Nats-Msg-Id`) by which the stream drops what comes twice.

use std::{error::Error as _, io, path::PathBuf};

use async_nats::{
    ConnectError, ConnectOptions, Event, ServerAddr,
    jetstream::{
        self, ErrorCode,
        context::{Context, ContextBuilder, PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::{Brief, Failure, Runtime, encoded, parse, patience, together};
use crate::{
    config::Time,
    delivery::Item,
    format::Format,
    tls::{self, Credentials, Secret},
};

/// Where to send, and as whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `nats://HOST:4222`, or `tls://HOST:4222`.
    pub url: Address,
    /// The subject, which a stream must take.
    pub subject: String,
    /// The name of the stream that must take it, where another one must not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// How records are written.
    #[serde(default)]
    pub format: Format,
    /// How long to wait for receipts.
    #[serde(default = "patience")]
    pub timeout: Time,
    /// A file with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// A file with the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// A file of credentials, as `nsc` makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creds_file: Option<PathBuf>,
    /// Certificates of those who may sign the server's; those of the system else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// A server's address, without secrets in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(ServerAddr);

impl TryFrom<String> for Address {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // It may have a password in it: it is not repeated.
        const WRONG: &str = "not an address such as nats://HOST:4222 or tls://HOST:4222";
        let address: ServerAddr = text.parse().map_err(|_| WRONG)?;
        if address.has_user_pass() || address.password().is_some() {
            return Err(
                "an address with a password in it; use token_file, creds_file, or username and \
                 password_file",
            );
        }
        if address.is_websocket() || address.host().is_empty() {
            return Err(WRONG);
        }
        Ok(Self(address))
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0.as_url_str())
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |it: char| it.is_whitespace() || matches!(it, '*' | '>');
        if self.subject.is_empty() || self.subject.contains(wrong) {
            return Err(format!("{:?} is no subject to publish to", self.subject));
        }
        if self
            .stream
            .as_ref()
            .is_some_and(|it| it.contains(char::is_whitespace))
        {
            return Err("stream is no name of a stream".to_owned());
        }
        together(
            ("username", &self.username),
            ("password_file", &self.password_file),
        )?;
        together(("cert_file", &self.cert_file), ("key_file", &self.key_file))?;
        self.options()?;
        Ok(())
    }

    /// How to connect, and as whom: read anew for each connection.
    fn options(&self) -> Result<ConnectOptions, String> {
        let read = |path: &PathBuf| {
            let bytes = Secret::File(path.clone()).read();
            let bytes = bytes.map_err(|error| error.to_string())?;
            let text = String::from_utf8(bytes);
            text.map_err(|_| format!("{} holds no text", path.display()))
        };
        let mut options = ConnectOptions::new()
            .name("oomtrace")
            // The queue knows when to try again, and what.
            .max_reconnects(1)
            .ignore_discovered_servers();
        if let Some(path) = &self.token_file {
            options = options.token(read(path)?.trim().to_owned());
        }
        if let (Some(user), Some(path)) = (&self.username, &self.password_file) {
            let password = read(path)?.trim().to_owned();
            options = options.user_and_password(user.clone(), password);
        }
        if let Some(path) = &self.creds_file {
            let wrong = |_| format!("{} holds no credentials of NATS", path.display());
            // The crate wants the end of the last line.
            options = options.credentials(&(read(path)? + "\n")).map_err(wrong)?;
        }
        if self.url.0.tls_required() || self.ca_file.is_some() || self.cert_file.is_some() {
            let tls = self.credentials().tls();
            let tls = tls.map_err(|error| error.to_string())?;
            options = options.tls_client_config(tls).require_tls(true);
        }
        Ok(options)
    }

    fn credentials(&self) -> Credentials {
        Credentials::of_files(&self.ca_file, &self.cert_file, &self.key_file, &None)
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let (tell, told) = mpsc::unbounded_channel();
        let options = self.options().map_err(Failure::later)?;
        let options = options.event_callback(move |event| {
            let told = match event {
                Event::Disconnected => Some("the connection broke".to_owned()),
                Event::ServerError(error) => Some(error.to_string()),
                _ => None,
            };
            // Nobody listens any more, at worst.
            let _ = told.map(|told| tell.send(told));
            std::future::ready(())
        });
        let client = options.connect(self.url.0.clone()).await;
        let client = client.map_err(|error| self.not_connected(&error))?;
        let context = ContextBuilder::new().timeout(self.timeout.0).build(client);
        Ok(Connection { context, told })
    }

    fn not_connected(&self, error: &ConnectError) -> Failure {
        let source = error.source();
        let why = match source.and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(error)
                if error
                    .get_ref()
                    .is_some_and(|inner| inner.is::<async_nats::rustls::Error>()) =>
            {
                tls::explain(error, &self.credentials())
            }
            _ => error.to_string(),
        };
        self.later(&why)
    }

    fn later(&self, why: &str) -> Failure {
        Failure::later(format!("{}: {why}", self.url))
    }

    fn message(&self, item: &Item) -> Result<PublishMessage, Failure> {
        let brief: Brief<'_> = parse(item)?;
        let payload = encoded(self.format, item)?;
        let id = brief.id();
        if id.contains(char::is_control) {
            return Err(Failure::Refused("its event_id is no name".to_owned()));
        }
        let message = PublishMessage::build().payload(payload.into());
        let message = message.message_id(id);
        Ok(match &self.stream {
            Some(stream) => message.expected_stream(stream),
            None => message,
        })
    }

    /// Publishes all, and then reads the receipts.
    async fn publish(&self, context: &Context, items: &[Item]) -> Result<(), Failure> {
        let messages: Vec<_> = items
            .iter()
            .map(|item| self.message(item))
            .collect::<Result<_, _>>()?;
        let mut receipts = Vec::with_capacity(messages.len());
        for message in messages {
            let sent = context.send_publish(self.subject.clone(), message).await;
            receipts.push(sent.map_err(|error| self.judge(&error)));
        }
        let mut refused = Ok(());
        for receipt in receipts {
            let receipt = match receipt {
                Ok(receipt) => receipt.await.map_err(|error| self.judge(&error)).map(drop),
                Err(failure) => Err(failure),
            };
            match receipt {
                Err(Failure::Refused(why)) => refused = Err(Failure::Refused(why)),
                receipt => receipt?,
            }
        }
        refused
    }

    /// What is wrong with a message, or with everything.
    fn judge(&self, error: &PublishError) -> Failure {
        let said = error.source().and_then(|source| source.downcast_ref());
        let code = said.map(jetstream::Error::error_code);
        match (error.kind(), code) {
            (PublishErrorKind::MaxPayloadExceeded, _)
            | (_, Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)) => {
                Failure::Refused(format!("{}: {error}", self.url))
            }
            (PublishErrorKind::StreamNotFound, _) => self.later(&format!(
                "no stream takes {}, or there is no JetStream",
                self.subject
            )),
            _ => self.later(&error.to_string()),
        }
    }
}

/// A server.
struct Connection {
    context: Context,
    /// What it says beside receipts.
    told: UnboundedReceiver<String>,
}

/// A stream.
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
}

impl super::Sink for Sink {
    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        let settings = &self.settings;
        let connection = &mut self.connection;
        let work = async {
            let Connection { context, told } = match connection {
                Some(connection) => connection,
                None => connection.insert(settings.connect().await?),
            };
            tokio::select! {
                sent = settings.publish(context, items) => sent,
                Some(told) = told.recv() => Err(settings.later(&told)),
            }
        };
        let slow = |within| settings.later(&format!("no receipt {within}"));
        let sent = self.runtime.run_within(settings.timeout, slow, work);
        if matches!(sent, Err(Failure::Later { .. })) {
            self.rest();
        }
        sent
    }

    fn rest(&mut self) {
        // Nobody would answer when the server asks whether we are there, nor see it go.
        self.connection = None;
        self.runtime.stop();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Addresses are a host and a port, without a password.
    #[test]
    fn addresses() {
        for (text, shown) in [
            ("nats://h", "nats://h"),
            ("tls://h:1", "tls://h:1"),
            ("h:4222", "nats://h:4222"),
            ("nats://[::1]:7", "nats://[::1]:7"),
        ] {
            let address = Address::try_from(text.to_owned()).unwrap();
            assert_eq!(address.to_string(), shown);
        }
        for wrong in [
            "http://h",
            "ws://h",
            "nats://",
            "nats://u:hunter2@h",
            "nats://h:x",
        ] {
            let said = Address::try_from(wrong.to_owned()).unwrap_err();
            assert!(!said.contains("hunter2"));
        }
    }
}
