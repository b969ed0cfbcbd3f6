//! Certificates and keys, and whom to believe.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, RootCertStore, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Certificates that everybody trusts, where no others are named.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that is needed.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// What a file, or what stands in for it inside of a kubeconfig, holds.
    #[error("{0}")]
    Credentials(String),
}

/// Bytes of a file, or that stood in another one.
#[derive(Clone)]
pub enum Secret {
    /// Read whenever it is used: it may be renewed.
    File(PathBuf),
    /// As they are.
    Inline(Vec<u8>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name())
    }
}

impl Secret {
    /// What it is now.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::File(path) => fs::read(path).map_err(|error| file(path, error)),
            Self::Inline(bytes) => Ok(bytes.clone()),
        }
    }

    /// Where it is; not what it is.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Inline(_) => "the kubeconfig".to_owned(),
        }
    }
}

/// Who is talked to, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Certificates of those who may sign the server's; those of the system else.
    pub ca: Option<Secret>,
    /// The bearer token.
    pub token: Option<Secret>,
    /// The client's certificate, and its key.
    pub client: Option<(Secret, Secret)>,
    /// The name that the server's certificate must have, where that is not the host's.
    pub server_name: Option<String>,
    /// The protocol that is spoken inside, where there are several (ALPN).
    pub protocol: Option<&'static str>,
}

impl Credentials {
    /// Those in the files that settings name; the client's are its certificate and key. Without a token.
    pub fn of_files(
        ca: &Option<PathBuf>,
        certificate: &Option<PathBuf>,
        key: &Option<PathBuf>,
        server_name: &Option<String>,
    ) -> Self {
        let file = |path: &Option<PathBuf>| path.clone().map(Secret::File);
        Self {
            ca: file(ca),
            client: file(certificate).zip(file(key)),
            server_name: server_name.clone(),
            ..Self::default()
        }
    }

    /// What a connection is made with. Read anew for each connection: certificates are renewed while the program runs.
    ///
    /// # Errors
    /// When a file cannot be read, or holds something else.
    pub fn tls(&self) -> Result<ClientConfig, Error> {
        let mut config = self.without_protocol()?;
        let protocol = self.protocol.map(|it| it.as_bytes().to_vec());
        config.alpn_protocols.extend(protocol);
        Ok(config)
    }

    fn without_protocol(&self) -> Result<ClientConfig, Error> {
        let ca = self.ca.clone().unwrap_or(Secret::File(SYSTEM_ROOTS.into()));
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates(&ca)?);
        if added == 0 {
            return Err(Error::Credentials(format!(
                "{} holds no certificate",
                ca.name()
            )));
        }
        let failed = |error: rustls::Error| Error::Credentials(format!("TLS: {error}"));
        let config =
            ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(failed)?
                .with_root_certificates(roots);
        let Some((certificate, key)) = &self.client else {
            return Ok(config.with_no_client_auth());
        };
        let parsed = PrivateKeyDer::from_pem_slice(&key.read()?)
            .map_err(|_| Error::Credentials(format!("{} holds no key", key.name())))?;
        config
            .with_client_auth_cert(certificates(certificate)?, parsed)
            .map_err(failed)
    }
}

fn certificates(pem: &Secret) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(&pem.read()?)
        .collect::<Result<_, _>>()
        .map_err(|_| Error::Credentials(format!("{} holds what is no certificate", pem.name())))
}

fn file(path: &Path, error: impl ToString) -> Error {
    Error::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

/// Why a TLS connection was not made, for people.
pub fn explain(error: &io::Error, credentials: &Credentials) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(why)) = inner else {
        return format!("TLS: {error}");
    };
    let who = match &credentials.ca {
        Some(ca) => ca.name(),
        None => SYSTEM_ROOTS.to_owned(),
    };
    match why {
        CertificateError::UnknownIssuer => {
            format!("its certificate is refused: it is signed by nobody whom {who} names")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate is refused: it has expired".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is refused: it is for another name: {why}")
        }
        _ => format!("its certificate is refused: {why}"),
    }
}
