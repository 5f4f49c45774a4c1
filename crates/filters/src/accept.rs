//! Which content coding a client likes best (RFC 9110, 12.5.3).

use evener_config::Coding;
use evener_http1::list_items;

/// The coding that a client likes best of `favourites`; among equals, the first of them. `None` if
/// it wants none of them, or likes none better than the content as it is. `values` are those of
/// its `Accept-Encoding` fields; a client without any gets the content as it is.
pub fn choose<'a>(values: impl Iterator<Item = &'a [u8]>, favourites: &[Coding]) -> Option<Coding> {
    let mut wanted: [Option<u16>; 3] = [None; 3];
    let mut any: Option<u16> = None;
    let mut identity: Option<u16> = None;
    for item in values.flat_map(list_items) {
        let mut parts = item.split(|&byte| byte == b';');
        let name = parts.next().unwrap_or_default().trim_ascii();
        let quality = parts.find_map(quality).unwrap_or(1000);
        if name == b"*" {
            any = Some(quality);
        } else if name.eq_ignore_ascii_case(b"identity") {
            identity = Some(quality);
        } else if let Some(place) = Coding::ALL.iter().position(|one| is_named(*one, name)) {
            wanted[place] = Some(quality);
        }
    }
    let mut best: Option<(u16, Coding)> = None;
    for coding in favourites {
        let place = Coding::ALL.iter().position(|one| one == coding);
        let quality = place.and_then(|place| wanted[place]).or(any).unwrap_or(0);
        if quality > best.map_or(0, |(quality, _)| quality) {
            best = Some((quality, *coding));
        }
    }
    best.filter(|(quality, _)| identity.is_none_or(|identity| identity <= *quality))
        .map(|(_, coding)| coding)
}

fn is_named(coding: Coding, name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(coding.token().as_bytes())
        || coding == Coding::Gzip && name.eq_ignore_ascii_case(b"x-gzip")
}

/// `q=0.5` in thousandths; `None` if it is another parameter, 0 if it cannot be read.
fn quality(parameter: &[u8]) -> Option<u16> {
    let parameter = parameter.trim_ascii();
    let value = match parameter {
        [b'q' | b'Q', b'=', value @ ..] => value,
        _ => return None,
    };
    let text = std::str::from_utf8(value).ok();
    let number = text.and_then(|text| text.parse::<f32>().ok());
    let number = number.filter(|number| (0.0..=1.0).contains(number));
    // Three digits are all that a weight may have.
    Some((number.unwrap_or(0.0) * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Coding::{Brotli, Gzip, Zstd};

    #[test]
    fn the_client_decides_and_then_the_order() {
        let all = [Zstd, Brotli, Gzip];
        for (accept, chosen) in [
            ("", None),
            ("gzip", Some(Gzip)),
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("GZIP;q=1.0, br;q=0.9", Some(Gzip)),
            ("br;q=0, *;q=0.1", Some(Zstd)),
            ("zstd;q=0,*", Some(Brotli)),
            ("*;q=0", None),
            ("identity", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("gzip;q=0.001", Some(Gzip)),
            ("gzip;q=nonsense", None),
            ("gzip; q=0.2 , x-gzip;q=0.3, br;level=1;q=0.25", Some(Gzip)),
            ("deflate, compress", None),
        ] {
            let values = [accept.as_bytes()].into_iter();
            assert_eq!(choose(values, &all), chosen, "{accept}");
        }
        assert_eq!(choose([&b"gzip"[..]].into_iter(), &[Brotli]), None);
        assert_eq!(
            choose([&b"gzip;q=0.1"[..], b"br"].into_iter(), &all),
            Some(Brotli)
        );
    }
}
