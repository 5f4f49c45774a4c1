//! TLS sockets against rustls's own blocking client: every byte arrives whatever the sizes, the
//! certificate fits the name that was asked for, and bad files change nothing.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evener_net::{CertificateFiles, ServerTls, ServerTlsTerms, Socket, Transfer};
use mio::{Events, Poll, Token};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const MEGABYTES: usize = 3 << 20;

fn certificate(folder: &Path, name: &str) -> (CertificateFiles, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let stem = name.replace('*', "any");
    let files = CertificateFiles {
        certificate: folder.join(format!("{stem}.crt")),
        key: folder.join(format!("{stem}.key")),
        ocsp: None,
    };
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    (files, cert.der().clone())
}

fn terms(certificates: Vec<CertificateFiles>) -> ServerTlsTerms {
    ServerTlsTerms {
        certificates,
        ..ServerTlsTerms::default()
    }
}

fn client_config(trusted: &[CertificateDer<'static>]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A mio socket that echoes what it reads until the client ends.
fn echo(listener: &TcpListener, tls: &ServerTls) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut poll = Poll::new().unwrap();
    let stream = mio::net::TcpStream::from_std(stream);
    let mut socket = Socket::accepted_tls(stream, tls.config(), poll.registry(), Token(1)).unwrap();
    let mut events = Events::with_capacity(8);
    let mut buffer = vec![0; 40_000];
    let mut pending: Vec<u8> = Vec::new();
    let mut ended = false;
    loop {
        loop {
            if !pending.is_empty() {
                match socket.write(&pending) {
                    Transfer::Bytes(count) => drop(pending.drain(..count)),
                    Transfer::Blocked => break,
                    other => panic!("{other:?}"),
                }
            } else if ended {
                break;
            } else {
                match socket.read(&mut buffer) {
                    Transfer::Bytes(count) => pending.extend_from_slice(&buffer[..count]),
                    Transfer::Blocked => break,
                    Transfer::End => ended = true,
                    Transfer::Broken(_) => return,
                }
            }
        }
        if ended && pending.is_empty() && socket.is_flushed() {
            return socket.shutdown_write();
        }
        poll.poll(&mut events, Some(Duration::from_secs(20)))
            .unwrap();
        assert!(!events.is_empty(), "nothing happens any more");
        for event in &events {
            socket.note(event);
        }
    }
}

/// Sends so many bytes and expects them back, writing all before reading any of a piece.
fn round_trip(
    tls: &Arc<ServerTls>,
    client: &Arc<ClientConfig>,
    name: &str,
    size: usize,
) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn({
        let tls = tls.clone();
        move || echo(&listener, &tls)
    });
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(client.clone(), name).unwrap();
    let tcp = std::net::TcpStream::connect(address).unwrap();
    let mut stream = StreamOwned::new(connection, tcp);
    let result = exchange(&mut stream, size);
    drop(stream);
    server.join().unwrap();
    result
}

fn exchange(
    stream: &mut StreamOwned<ClientConnection, std::net::TcpStream>,
    size: usize,
) -> std::io::Result<()> {
    let sent: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
    let mut received = Vec::new();
    let mut piece = vec![0; 100_000];
    for chunk in sent.chunks(100_000) {
        stream.write_all(chunk)?;
        let mut left = chunk.len();
        while left > 0 {
            let count = stream.read(&mut piece[..left])?;
            received.extend_from_slice(&piece[..count]);
            left -= count;
        }
    }
    stream.conn.send_close_notify();
    stream.flush()?;
    stream.sock.shutdown(std::net::Shutdown::Write)?;
    assert_eq!(stream.read(&mut piece)?, 0, "the server ends properly");
    assert_eq!(received, sent);
    Ok(())
}

#[test]
fn every_byte_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (files, der) = certificate(folder.path(), "localhost");
    let tls = Arc::new(ServerTls::new(terms(vec![files])).unwrap());
    let client = client_config(&[der]);
    for size in [1, 16_384, 100_001, MEGABYTES] {
        round_trip(&tls, &client, "localhost", size).unwrap();
    }
}

#[test]
fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let made = ["a.example", "*.b.example"].map(|name| certificate(folder.path(), name));
    let (files, ders): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    let tls = Arc::new(ServerTls::new(terms(files)).unwrap());
    let both = client_config(&ders);
    for name in ["a.example", "x.b.example", "Y.B.example"] {
        round_trip(&tls, &both, name, 10).unwrap();
    }
    for name in ["c.example", "x.y.b.example", "b.example"] {
        let result = round_trip(&tls, &both, name, 10);
        assert!(result.is_err(), "{name} has no certificate");
    }
}

#[test]
fn files_are_read_again_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (files, old) = certificate(folder.path(), "localhost");
    let tls = Arc::new(ServerTls::new(terms(vec![files.clone()])).unwrap());
    std::fs::write(&files.certificate, "nonsense").unwrap();
    let error = tls.reload().unwrap_err().to_string();
    let told = error.contains("localhost.crt") && error.contains("BEGIN CERTIFICATE");
    assert!(told, "{error}");
    round_trip(&tls, &client_config(&[old]), "localhost", 10).unwrap();
    let (_, fresh) = certificate(folder.path(), "localhost");
    tls.reload().unwrap();
    round_trip(&tls, &client_config(&[fresh]), "localhost", 10).unwrap();
}

#[test]
fn files_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (one, _) = certificate(folder.path(), "one.example");
    let (two, _) = certificate(folder.path(), "two.example");
    let refused = |certificate: &Path, key: &Path| {
        let files = CertificateFiles {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            ocsp: None,
        };
        ServerTls::new(terms(vec![files])).unwrap_err().to_string()
    };
    let missing = folder.path().join("missing.key");
    assert!(refused(&one.certificate, &two.key).contains("not the key of"));
    assert!(refused(&one.certificate, &missing).contains("missing.key"));
    assert!(refused(&one.certificate, &one.certificate).contains("no private key"));
    assert!(refused(&one.key, &one.key).contains("no certificate"));
}
