//! Where clients connect, and what they may speak there.

use std::path::PathBuf;

use super::TrustedPeers;
use crate::values::ListenAddress;

/// One place where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// By which routes call it.
    pub name: String,
    /// The address.
    pub address: ListenAddress,
    /// How its clients speak TLS, if they do.
    pub tls: Option<ListenerTls>,
    /// Every client is sent to `https` at this port.
    pub https_redirect: Option<u16>,
    /// Whose connections begin with a header of the PROXY protocol.
    pub proxied: Option<TrustedPeers>,
    /// On what terms its clients may speak HTTP/2, if they may.
    pub http2: Option<Http2Terms>,
}

/// On what terms clients speak HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Terms {
    /// Requests that one connection may have under way.
    pub streams_max: u32,
}

impl Default for Http2Terms {
    fn default() -> Self {
        Http2Terms { streams_max: 128 }
    }
}

/// Files about one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then those that signed it.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// DER: what its authority says of it.
    pub ocsp: Option<PathBuf>,
}

/// How the clients of a listener speak TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one. A client gets the one that has the name it asks for, else the first.
    pub certificates: Vec<CertificateFiles>,
    /// PEM file of the authorities whose certificates clients show.
    pub client_ca: Option<PathBuf>,
    /// A client may show none.
    pub client_optional: bool,
    /// Only TLS 1.3.
    pub only_13: bool,
}
