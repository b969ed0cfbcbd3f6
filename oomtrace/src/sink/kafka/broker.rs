//! A connection to one broker: requests with their answers, one after the other.

use std::{collections::HashMap, io};

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    error::ParseResponseErrorCode as _,
    messages::{
        ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest,
        SaslHandshakeRequest,
    },
    protocol::{Decodable as _, Encodable as _, HeaderVersion, Request, StrBytes},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::login::Login;
use crate::{
    net::{self, Stream},
    tls::{self, Credentials},
};

/// An answer is not read further.
const MOST_ANSWER: usize = 16 << 20;

/// What fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connection(#[from] net::Error),
    #[error(transparent)]
    Secret(#[from] tls::Error),
    #[error("the connection broke: {0}")]
    Network(#[from] io::Error),
    #[error("the user {0} is refused: {1}")]
    Login(String, String),
    #[error("{0}")]
    Answer(String),
}

/// A broker.
pub struct Broker {
    stream: Box<dyn Stream>,
    count: i32,
    /// Which versions of which requests it takes.
    versions: HashMap<i16, (i16, i16)>,
}

impl Broker {
    /// Connects and logs in.
    pub async fn connect(
        address: (&str, u16),
        credentials: Option<&Credentials>,
        login: Option<&Login>,
    ) -> Result<Self, Error> {
        let mut broker = Self {
            stream: net::connect(address.0, address.1, credentials).await?,
            count: 0,
            versions: HashMap::new(),
        };
        let answer = broker.ask(&ApiVersionsRequest::default(), 0).await?;
        broker.versions = answer
            .api_keys
            .iter()
            .map(|api| (api.api_key, (api.min_version, api.max_version)))
            .collect();
        if let Some(login) = login {
            broker.log_in(login).await?;
        }
        Ok(broker)
    }

    /// The newest version that both know, up to `newest`.
    pub fn version<R: Request>(&self, newest: i16) -> Result<i16, Error> {
        let known = self.versions.get(&R::KEY);
        known
            .map(|(least, most)| (R::VERSIONS.min.max(*least), newest.min(*most)))
            .filter(|(least, most)| least <= most)
            .map(|(_, version)| version)
            .ok_or_else(|| Error::Answer("it speaks another version of the protocol".to_owned()))
    }

    /// Asks, and waits for the answer.
    pub async fn ask<R: Request>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<R::Response, Error> {
        self.count = self.count.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.count)
            .with_client_id(Some(StrBytes::from_static_str("oomtrace")));
        let mut bytes = BytesMut::new();
        bytes.put_i32(0);
        header
            .encode(&mut bytes, R::header_version(version))
            .and_then(|()| request.encode(&mut bytes, version))
            .map_err(|error| Error::Answer(format!("it cannot be asked: {error}")))?;
        let length = i32::try_from(bytes.len() - 4)
            .map_err(|_| Error::Answer("it cannot be asked so much".to_owned()))?;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await?;
        let mut answer = self.read().await?;
        let wrong = |error| Error::Answer(format!("its answer makes no sense: {error}"));
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version))
            .map_err(wrong)?;
        if header.correlation_id != self.count {
            return Err(Error::Answer("it answers something else".to_owned()));
        }
        R::Response::decode(&mut answer, version).map_err(wrong)
    }

    async fn read(&mut self) -> Result<Bytes, Error> {
        let length = self.stream.read_i32().await?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MOST_ANSWER)
            .ok_or_else(|| Error::Answer("what it answers is not Kafka's protocol".to_owned()))?;
        let mut answer = Vec::new();
        let read = (&mut self.stream).take(length as u64);
        let mut read = std::pin::pin!(read);
        if read.read_to_end(&mut answer).await? < length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(answer.into())
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), Error> {
        let refused = |why: String| Error::Login(login.username.clone(), why);
        let name = StrBytes::from_static_str(login.mechanism.name());
        let handshake = SaslHandshakeRequest::default().with_mechanism(name);
        let answer = self.ask(&handshake, 1).await?;
        if answer.error_code.is_err() {
            let known: Vec<_> = answer.mechanisms.iter().map(|it| it.as_str()).collect();
            let (name, known) = (login.mechanism.name(), known.join(", "));
            return Err(refused(format!("{name} is not taken, but {known}")));
        }
        let mut exchange = login.begin()?;
        let mut answer: Option<Bytes> = None;
        while let Some((message, last)) = exchange.step(answer.as_deref()).map_err(refused)? {
            answer = Some(self.step(login, message).await?);
            if last {
                break;
            }
        }
        Ok(())
    }

    async fn step(&mut self, login: &Login, message: Vec<u8>) -> Result<Bytes, Error> {
        let version = self.version::<SaslAuthenticateRequest>(1)?;
        let request = SaslAuthenticateRequest::default().with_auth_bytes(message.into());
        let answer = self.ask(&request, version).await?;
        if let Some(error) = answer.error_code.err() {
            let said = answer.error_message.filter(|said| !said.is_empty());
            let said = said.map_or_else(|| error.to_string(), |said| said.to_string());
            return Err(Error::Login(login.username.clone(), said));
        }
        Ok(answer.auth_bytes)
    }
}
