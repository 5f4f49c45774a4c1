//! What a client's certificate says, in the form in which it is told to applications: that of
//! Envoy's `X-Forwarded-Client-Cert`. That the certificate is good was checked by the handshake.

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;

use crate::distinguished_name;

/// Letters in a line of PEM (RFC 7468, 2).
const LINE_LETTERS: usize = 64;

/// The value of the field for a chain that a client has shown, its own certificate first; empty
/// for one that has shown none. `Hash` is SHA-256 of the certificate, `Subject` its subject (RFC
/// 2253), `URI` and `DNS` each such name in it, and `Cert` all of it, as PEM in URL encoding.
pub(crate) fn claims(chain: &[CertificateDer<'_>]) -> Vec<u8> {
    let Some(own) = chain.first() else {
        return Vec::new();
    };
    let mut out = b"Hash=".to_vec();
    for byte in digest(&SHA256, own).as_ref() {
        push_hexadecimal(&mut out, *byte, b"0123456789abcdef");
    }
    if let Ok(certificate) = webpki::EndEntityCert::try_from(own) {
        if let Some(subject) = distinguished_name::text(certificate.subject()) {
            // What is not printable, and quotes, are escaped in it.
            out.extend_from_slice(format!(";Subject=\"{subject}\"").as_bytes());
        }
        for uri in certificate.valid_uri_names() {
            if is_uri(uri) {
                out.extend_from_slice(format!(";URI=\"{uri}\"").as_bytes());
            }
        }
        for name in certificate.valid_dns_names() {
            out.extend_from_slice(b";DNS=");
            out.extend_from_slice(name.as_bytes());
        }
    }
    out.extend_from_slice(b";Cert=\"-----BEGIN%20CERTIFICATE-----%0A");
    push_base64_lines(&mut out, own);
    out.extend_from_slice(b"-----END%20CERTIFICATE-----%0A\"");
    out
}

/// Whether it can stand in quotes in a field. A URI has no other characters (RFC 3986, 2).
fn is_uri(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

fn push_hexadecimal(out: &mut Vec<u8>, byte: u8, digits: &[u8; 16]) {
    out.extend([
        digits[usize::from(byte >> 4)],
        digits[usize::from(byte & 15)],
    ]);
}

/// Base64 (RFC 4648, 4) in lines, what URLs cannot hold encoded.
fn push_base64_lines(out: &mut Vec<u8>, bytes: &[u8]) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut count = 0;
    let mut push = |letter: u8| {
        match letter {
            b'+' | b'/' | b'=' => {
                out.push(b'%');
                push_hexadecimal(out, letter, b"0123456789ABCDEF");
            }
            letter => out.push(letter),
        }
        count += 1;
        if count == LINE_LETTERS {
            count = 0;
            out.extend_from_slice(b"%0A");
        }
    };
    for group in bytes.chunks(3) {
        let number = group
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte));
        let number = number << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * place) & 63) as usize];
            push(if place > group.len() { b'=' } else { letter });
        }
    }
    if count > 0 {
        out.extend_from_slice(b"%0A");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        push_base64_lines(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        assert_eq!(lines(b""), "");
        assert_eq!(lines(b"f"), "Zg%3D%3D%0A");
        assert_eq!(lines(b"fo"), "Zm8%3D%0A");
        assert_eq!(lines(b"foobar"), "Zm9vYmFy%0A");
        assert_eq!(lines(&[0xfb, 0xff, 0xfe]), "%2B%2F%2F%2B%0A");
        assert_eq!(lines(&[0; 49]).matches("%0A").count(), 2);
    }

    #[test]
    fn nobody_claims_nothing() {
        assert!(claims(&[]).is_empty());
    }
}
