//! What a listener that speaks TLS needs: certificates by the name that the client asks for (SNI,
//! RFC 6066, 3), versions, protocols, and whose certificates clients must show.
//!
//! Everything is read and checked before it takes effect, and again at a reload: a bad file
//! changes nothing.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246) and newer.
    #[default]
    V12,
    /// TLS 1.3 (RFC 8446) only.
    V13,
}

/// A certificate chain and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate itself, then those that signed it.
    pub certificate: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1, without a passphrase. May be the same file.
    pub key: PathBuf,
    /// What the authority says of the certificate: an OCSP response (RFC 6960) in DER, given to
    /// clients that ask (RFC 6066, 8).
    pub ocsp: Option<PathBuf>,
}

/// What a listener's TLS is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerTlsTerms {
    /// At least one; the first is shown to clients that ask for no name, or for an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// PEM file of the authorities whose certificates clients must show, if they must.
    pub client_ca: Option<PathBuf>,
    /// With `client_ca`: a client may also show none.
    pub client_optional: bool,
    /// The oldest version.
    pub version_min: TlsVersion,
    /// What is offered by ALPN (RFC 7301), most wanted first: `h2`, `http/1.1`.
    pub protocols: Vec<Vec<u8>>,
}

/// A file that TLS cannot be made of.
#[derive(Debug)]
pub struct TlsError {
    /// Which.
    pub file: PathBuf,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.reason)
    }
}

impl std::error::Error for TlsError {}

pub(crate) fn wrong(file: &Path, reason: impl fmt::Display) -> TlsError {
    TlsError {
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}

/// The TLS of one listener, shared by its shards; connections take what is current when they are
/// accepted.
pub struct ServerTls {
    terms: ServerTlsTerms,
    current: RwLock<Arc<ServerConfig>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads all files and checks that they fit together.
    pub fn new(terms: ServerTlsTerms) -> Result<ServerTls, TlsError> {
        let current = RwLock::new(Arc::new(build(&terms)?));
        Ok(ServerTls { terms, current })
    }

    /// Reads the files anew; connections accepted from now on get what they say. An error changes
    /// nothing.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(build(&self.terms)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Works like `other` from the next connection on.
    pub fn replace_by(&self, other: &ServerTls) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = other.config();
    }

    /// What a new connection is made with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn build(terms: &ServerTlsTerms) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[&SupportedProtocolVersion] = match terms.version_min {
        TlsVersion::V12 => &[&TLS12, &TLS13],
        TlsVersion::V13 => &[&TLS13],
    };
    let mut certificates = Certificates::default();
    for files in &terms.certificates {
        certificates.add(Arc::new(load(files, &provider)?));
    }
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("the provider has cipher suites for both versions");
    let builder = match &terms.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            builder.with_client_cert_verifier(verifier(file, terms.client_optional, provider)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols.clone_from(&terms.protocols);
    config.send_half_rtt_data = false;
    Ok(config)
}

fn verifier(
    file: &Path,
    optional: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(file)? {
        roots.add(certificate).map_err(|error| wrong(file, error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional {
        builder.allow_unauthenticated()
    } else {
        builder
    };
    builder.build().map_err(|error| wrong(file, error))
}

pub(crate) fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = CertificateDer::pem_file_iter(file).map_err(|error| wrong(file, plain(error)))?;
    let chain: Result<Vec<_>, _> = pem.collect();
    let chain = chain.map_err(|error| wrong(file, plain(error)))?;
    if chain.is_empty() {
        let reason =
            "there is no certificate in it; it must be a PEM file with `BEGIN CERTIFICATE`";
        return Err(wrong(file, reason));
    }
    Ok(chain)
}

fn load(files: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = chain(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| wrong(&files.key, no_key(error)))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| wrong(&files.key, error))?;
    let mut certified = CertifiedKey::new(chain, key);
    certified.ocsp = files.ocsp.as_deref().map(ocsp_response).transpose()?;
    match certified.keys_match() {
        // Some kinds of key cannot tell their public half; the handshake will.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(_) => Err(wrong(
            &files.key,
            format_args!("it is not the key of {}", files.certificate.display()),
        )),
    }
}

/// Reads what an authority says of a certificate. That it says so of this one, and that it is not
/// too old, is for the clients to check, as with nginx's `ssl_stapling_file`.
fn ocsp_response(file: &Path) -> Result<Vec<u8>, TlsError> {
    let bytes = std::fs::read(file).map_err(|error| wrong(file, error))?;
    // OCSPResponse ::= SEQUENCE { responseStatus ENUMERATED, … }, of which 0 is `successful`.
    let length = bytes.get(1).copied().unwrap_or_default();
    let inside = match length {
        0x80.. => 2 + usize::from(length & 0x7f),
        _ => 2,
    };
    match (bytes.first(), bytes.get(inside..inside + 3)) {
        (Some(0x30), Some([0x0a, 1, 0])) => Ok(bytes),
        (Some(0x30), Some([0x0a, 1, status])) => Err(wrong(
            file,
            format_args!(
                "the authority has not answered what it was asked (status {status}): ask it again"
            ),
        )),
        _ => Err(wrong(
            file,
            "it is no OCSP response in DER; `openssl ocsp -respout FILE` writes one",
        )),
    }
}

fn plain(error: rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => error.to_string(),
        other => format!("it is not a PEM file that can be read: {other}"),
    }
}

pub(crate) fn no_key(error: rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            "there is no private key in it that needs no passphrase; `openssl pkey -in FILE` \
             writes one without"
                .to_owned()
        }
        other => plain(other),
    }
}

/// Certificates by the names that stand in them.
#[derive(Debug, Default)]
struct Certificates {
    first: Option<Arc<CertifiedKey>>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    fn add(&mut self, certified: Arc<CertifiedKey>) {
        for name in names(&certified) {
            match name.strip_prefix("*.") {
                Some(suffix) => self.wildcard.entry(suffix.to_owned()),
                None => self.exact.entry(name),
            }
            .or_insert_with(|| certified.clone());
        }
        self.first.get_or_insert(certified);
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.exact.get(&name).or_else(|| self.wildcard.get(parent?))
    }
}

fn names(certified: &CertifiedKey) -> Vec<String> {
    let Some(Ok(certificate)) = certified.cert.first().map(webpki::EndEntityCert::try_from) else {
        return Vec::new();
    };
    certificate
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(name));
        named.or(self.first.as_ref()).cloned()
    }
}
