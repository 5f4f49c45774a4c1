//! The `--ssl-…` flags, which keep uvicorn's names and meanings: what they ask for, and the files
//! read. TLS is ended by the edge; the workers see clear text and `https` as the scheme.

use std::sync::Arc;

use evener_config::ListenerTls;
use evener_net::{CertificateFiles, ServerTls, ServerTlsTerms, TlsVersion};

use crate::args::TlsArguments;

/// What the flags ask for; `None` when they ask for no TLS. Flags that change nothing here become
/// notes.
pub(crate) fn resolve(
    typed: &TlsArguments,
    notes: &mut Vec<String>,
) -> Result<Option<ListenerTls>, String> {
    let Some(certificate) = &typed.ssl_certfile else {
        let others = [
            (typed.ssl_keyfile.is_some(), "--ssl-keyfile"),
            (typed.ssl_ca_certs.is_some(), "--ssl-ca-certs"),
            (
                typed.ssl_keyfile_password.is_some(),
                "--ssl-keyfile-password",
            ),
        ];
        return match others.iter().find(|(given, _)| *given) {
            Some((_, flag)) => Err(format!(
                "{flag} needs --ssl-certfile, the certificate to show"
            )),
            None => Ok(None),
        };
    };
    if typed.ssl_keyfile_password.is_some() {
        return Err(
            "--ssl-keyfile-password: keys with a passphrase are not read; `openssl pkey -in FILE \
             -out FILE.plain` writes one without, to be kept readable for this user only"
                .to_owned(),
        );
    }
    if typed.ssl_version.is_some() {
        notes.push("--ssl-version is ignored: TLS 1.2 and 1.3 are spoken".to_owned());
    }
    if typed.ssl_ciphers.is_some() {
        notes.push("--ssl-ciphers is ignored: only modern cipher suites are there".to_owned());
    }
    let demanded = typed.ssl_cert_reqs.unwrap_or(0);
    if demanded > 0 && typed.ssl_ca_certs.is_none() {
        return Err(
            "--ssl-cert-reqs asks for certificates of clients: name who signs them with \
             --ssl-ca-certs"
                .to_owned(),
        );
    }
    let key = typed.ssl_keyfile.as_ref().unwrap_or(certificate);
    Ok(Some(ListenerTls {
        certificates: vec![evener_config::CertificateFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            ocsp: None,
        }],
        client_ca: typed.ssl_ca_certs.clone().filter(|_| demanded > 0),
        client_optional: demanded == 1,
        only_13: false,
    }))
}

/// Reads the files. With `http2`, that is offered before HTTP/1.1.
pub(crate) fn read(settings: &ListenerTls, http2: bool) -> Result<Arc<ServerTls>, String> {
    let files = settings.certificates.iter();
    let terms = ServerTlsTerms {
        certificates: files
            .map(|files| CertificateFiles {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
                ocsp: files.ocsp.clone(),
            })
            .collect(),
        client_ca: settings.client_ca.clone(),
        client_optional: settings.client_optional,
        version_min: match settings.only_13 {
            true => TlsVersion::V13,
            false => TlsVersion::V12,
        },
        protocols: match http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        },
    };
    ServerTls::new(terms)
        .map(Arc::new)
        .map_err(|error| format!("TLS: {error}"))
}
