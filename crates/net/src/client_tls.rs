//! What a connection to an endpoint that speaks TLS needs: whose certificates are believed, and
//! what we show ourselves. Read and checked before it takes effect, and again at a reload.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::certificates::{CertificateFiles, TlsError, chain, no_key, wrong};

/// Where systems keep the authorities that they believe.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What TLS towards endpoints is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTlsTerms {
    /// PEM file of the authorities that sign the endpoints' certificates; the system's if `None`.
    pub authorities: Option<PathBuf>,
    /// What is shown to endpoints that ask for a certificate.
    pub certificate: Option<CertificateFiles>,
    /// Whether certificates are checked at all.
    pub verify: bool,
    /// What is asked for by ALPN (RFC 7301).
    pub protocols: Vec<Vec<u8>>,
}

/// TLS towards the endpoints of a cluster; connections take what is current when they begin.
pub struct ClientTls {
    terms: ClientTlsTerms,
    current: RwLock<Arc<ClientConfig>>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Reads all files and checks that they fit together.
    pub fn new(terms: ClientTlsTerms) -> Result<ClientTls, TlsError> {
        let current = RwLock::new(Arc::new(build(&terms)?));
        Ok(ClientTls { terms, current })
    }

    /// Works like `other` from the next connection on.
    pub fn replace_by(&self, other: &ClientTls) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = other.config();
    }

    /// What a new connection is made with.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn build(terms: &ClientTlsTerms) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for both versions");
    let builder = if terms.verify {
        builder.with_root_certificates(authorities(terms.authorities.as_deref())?)
    } else {
        let verifier = Arc::new(AnyCertificate { provider });
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    };
    let mut config = match &terms.certificate {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let key = PrivateKeyDer::from_pem_file(&files.key)
                .map_err(|error| wrong(&files.key, no_key(error)))?;
            builder
                .with_client_auth_cert(chain(&files.certificate)?, key)
                .map_err(|error| wrong(&files.key, error))?
        }
    };
    config.alpn_protocols.clone_from(&terms.protocols);
    Ok(config)
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file {
        for certificate in chain(file)? {
            roots.add(certificate).map_err(|error| wrong(file, error))?;
        }
        return Ok(roots);
    }
    let mut known = SYSTEM_AUTHORITIES.iter().map(Path::new);
    let Some(file) = known.find(|file| file.exists()) else {
        let reason = "this system has no list of authorities there; name a file with `ca`";
        return Err(wrong(Path::new(SYSTEM_AUTHORITIES[0]), reason));
    };
    // The system's list may hold some that are of no use here.
    roots.add_parsable_certificates(chain(file)?);
    Ok(roots)
}

/// Believes whatever certificate is shown. That who shows it has its key is still checked.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
