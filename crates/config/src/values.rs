//! One parser for each kind of value that people write: sizes, times, addresses, networks, hosts,
//! paths. The command line reads with the same ones. Each says what is wrong with a value.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::filters::OriginPattern;

/// A number of bytes: `4096`, `64k`, `1m`, `2GiB` (powers of 1024).
pub fn size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let wrong = || format!("`{text}` is not a size: write 4096, 64k, 1m or 2g");
    let number_end = lower
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(number_end);
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1024,
        "m" | "mb" | "mib" => 1024 * 1024,
        "g" | "gb" | "gib" => 1024 * 1024 * 1024,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A size that may be `off`.
pub fn size_limit(text: &str) -> Result<Option<u64>, String> {
    if is_off(text) {
        return Ok(None);
    }
    size(text)
        .map(Some)
        .map_err(|error| format!("{error}, or `off`"))
}

/// A time: bare seconds, or with a unit: `500ms`, `10s`, `2m`, `1h`.
pub fn time(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    let wrong = || format!("`{text}` is not a time: write 10, 0.5, 500ms, 10s, 2m or 1h");
    let number_end = trimmed
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(number_end);
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A time above zero, or `off`.
pub fn deadline(text: &str) -> Result<Option<Duration>, String> {
    if is_off(text) {
        return Ok(None);
    }
    let time = time(text).map_err(|error| format!("{error}, or `off`"))?;
    if time.is_zero() {
        return Err(format!(
            "`{text}` leaves no time at all; `off` switches the limit off"
        ));
    }
    Ok(Some(time))
}

fn is_off(text: &str) -> bool {
    matches!(
        text.trim().to_ascii_lowercase().as_str(),
        "off" | "none" | "unlimited" | "never"
    )
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A TCP port on the addresses of a host.
    Tcp {
        /// A name or an IP address, without brackets.
        host: String,
        /// 0 takes any free one.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
    /// A descriptor that this program was started with and that listens already.
    Descriptor(i32),
}

impl ListenAddress {
    /// Reads `host:port`, `[::]:port`, `unix:/path` or `fd:N`.
    pub fn parse(text: &str) -> Result<ListenAddress, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(ListenAddress::Unix);
        }
        if let Some(number) = text.strip_prefix("fd:") {
            return match number.parse() {
                Ok(number) if number >= 3 => Ok(ListenAddress::Descriptor(number)),
                _ => Err(format!("`{text}`: the descriptor is a number from 3 up")),
            };
        }
        let (host, port) = host_and_port(text)?;
        Ok(ListenAddress::Tcp { host, port })
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenAddress::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            ListenAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ListenAddress::Descriptor(number) => write!(f, "fd:{number}"),
        }
    }
}

/// Where an endpoint listens, as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
    /// A name with a port: one endpoint for each of its addresses.
    Name {
        /// The name, as a resolver takes it.
        host: String,
        /// The port.
        port: u16,
    },
    /// The name of SRV records: one endpoint for each address of each target.
    Service(String),
}

impl Target {
    /// Reads `host:port`, `[::1]:port`, `unix:/path` or `srv:_service._proto.name`.
    pub fn parse(text: &str) -> Result<Target, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Target::Unix);
        }
        if let Some(name) = text.strip_prefix("srv:") {
            return match is_name(name) {
                true => Ok(Target::Service(name.to_ascii_lowercase())),
                false => Err(format!(
                    "`{text}`: `{name}` cannot be the name of a service"
                )),
            };
        }
        let (host, port) = host_and_port(text)?;
        if port == 0 {
            return Err(format!("`{text}`: nothing listens on port 0"));
        }
        match host.parse::<IpAddr>() {
            Ok(ip) => Ok(Target::Tcp(SocketAddr::new(ip, port))),
            Err(_) => Ok(Target::Name {
                host: host.to_ascii_lowercase(),
                port,
            }),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Tcp(address) => address.fmt(f),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
            Target::Name { host, port } => write!(f, "{host}:{port}"),
            Target::Service(name) => write!(f, "srv:{name}"),
        }
    }
}

/// A name server: an IP address, with a port unless it is 53.
pub fn name_server(text: &str) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 53));
    }
    text.parse().map_err(|_| {
        format!("`{text}` is not the address of a name server: write 10.0.0.2 or 10.0.0.2:53")
    })
}

fn unix_path(path: &str) -> Result<PathBuf, String> {
    // The length of `sun_path`, with its final zero.
    if path.is_empty() || path.len() > 107 || path.contains('\0') {
        return Err(format!(
            "`unix:{path}`: the path of a unix socket has 1 to 107 bytes"
        ));
    }
    Ok(PathBuf::from(path))
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    if text.contains("://") {
        return Err(format!(
            "`{text}` is a URL: write the address alone, as in 127.0.0.1:8080"
        ));
    }
    let wrong = || format!("`{text}` is not an address: write host:port, [::1]:port or unix:/path");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port
        .parse()
        .map_err(|_| format!("`{text}`: the port is a number from 0 to 65535"))?;
    let host = match host.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']').ok_or_else(wrong)?;
            inner.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            inner
        }
        None if host.contains(':') => {
            return Err(format!(
                "`{text}`: an IPv6 address goes in brackets, as in [::1]:8080"
            ));
        }
        None => host,
    };
    if host.parse::<IpAddr>().is_err() && !is_name(host) {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(label)
}

/// A CIDR block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `::1/128` or a bare address.
    pub fn parse(text: &str) -> Result<Network, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("`{text}` is not an IP address or CIDR block"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) => match digits.parse::<u8>() {
                Ok(prefix) if prefix <= longest => prefix,
                _ => return Err(format!("`{text}`: the prefix must be 0 to {longest}")),
            },
        };
        Ok(Network { address, prefix })
    }

    /// Whether `ip` lies in this block. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                u32::from(network) & mask == u32::from(ip) & mask
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                u128::from(network) & mask == u128::from(ip) & mask
            }
            _ => false,
        }
    }
}

/// The host of a request that a route is for: a name, or `*.` and a name for all names below it.
pub fn host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let literal = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if literal || is_name(name) {
        Ok(text.trim_end_matches('.').to_ascii_lowercase())
    } else if name.contains(':') {
        Err(format!("`{text}`: leave the port out"))
    } else {
        Err(format!(
            "`{text}` is not a host: write example.com, or *.example.com for all names below it"
        ))
    }
}

/// The path of a URL: it begins with `/` and has no query.
pub fn url_path(text: &str) -> Result<String, String> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"?#".contains(c);
    if text.starts_with('/') && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a path: it begins with `/` and has no `?`"
        ))
    }
}

/// A path with or without a query, as it stands in a request.
pub fn target_path(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_graphic() && c != '#';
    match text.starts_with('/') && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "`{text}` is not a path: it begins with `/` and has no spaces"
        )),
    }
}

/// A status, or the first and last of several: `200`, `200-399`.
pub fn statuses(text: &str) -> Result<std::ops::RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| {
        let status = text.trim().parse::<u16>().ok();
        status.filter(|status| (100..=599).contains(status))
    };
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("`{text}` is not a status: write 200, or 200-399")),
    }
}

/// The name of a header field.
pub fn field_name(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.chars().all(is_token) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` cannot be the name of a header field"))
    }
}

/// A method of HTTP.
pub fn method(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.chars().all(is_token) {
        return Err(format!("`{text}` cannot be a method"));
    }
    if text.chars().any(|c| c.is_ascii_lowercase()) {
        let upper = text.to_ascii_uppercase();
        return Err(format!(
            "`{text}`: methods are written in capitals; did you mean `{upper}`?"
        ));
    }
    Ok(text.to_owned())
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// An origin as browsers send it: scheme, host and perhaps a port, in small letters.
pub fn origin(text: &str) -> Result<OriginPattern, String> {
    if text == "*" {
        return Ok(OriginPattern::Any);
    }
    let wrong = || {
        format!(
            "`{text}` is not an origin: write https://example.com, https://example.com:8443 or \
             https://*.example.com"
        )
    };
    let lower = text.to_ascii_lowercase();
    if lower == "null" {
        return Err(
            "`null` is the origin of whoever hides theirs: it cannot be trusted".to_owned(),
        );
    }
    let (scheme, rest) = lower.split_once("://").ok_or_else(wrong)?;
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let below = host.strip_prefix("*.");
    let name = below.unwrap_or(host);
    let literal = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if scheme.is_empty() || !scheme.chars().all(plain) || !good_port || !(literal || is_name(name))
    {
        return Err(wrong());
    }
    Ok(match below {
        Some(_) => OriginPattern::Below {
            scheme: format!("{scheme}://"),
            suffix: rest[1..].to_owned(),
        },
        None => OriginPattern::Exact(lower),
    })
}

/// The value of a header field, or a part of it: no control characters.
pub fn field_value(text: &str) -> Result<String, String> {
    match text.chars().any(|c| c.is_control() && c != '\t') {
        true => Err("the value of a header field has no control characters".to_owned()),
        false => Ok(text.trim().to_owned()),
    }
}

/// A name that the file gives to something of its own.
pub fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 40 || text.starts_with('.') || !text.chars().all(plain) {
        return Err(format!(
            "`{text}` cannot be a name: use up to 40 letters, digits, `-`, `_` and `.`"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64k", 65536), ("1M", 1 << 20)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert_eq!(size_limit("2GiB"), Ok(Some(2 << 30)));
        assert_eq!(size_limit("off"), Ok(None));
        for wrong in [
            "",
            "k",
            "1x",
            "-1",
            "1.5m",
            "99999999999999999999",
            "99999999999g",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times() {
        for (text, millis) in [
            ("10", 10_000),
            ("0.5", 500),
            ("500ms", 500),
            ("2m", 120_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(deadline("off"), Ok(None));
        assert_eq!(deadline("1h"), Ok(Some(Duration::from_secs(3600))));
        for wrong in ["", "-1", "s", "1d", "inf", "nan", "1e400", "10 parsecs"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(deadline("0").is_err());
        assert_eq!(time("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            "127.0.0.1:8080",
            "[::]:80",
            "localhost:0",
            "unix:/run/a.sock",
            "fd:3",
        ] {
            assert_eq!(ListenAddress::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "127.0.0.1:80",
            "[::1]:80",
            "api.local:80",
            "unix:a",
            "srv:_http._tcp.api",
        ] {
            assert_eq!(Target::parse(text).unwrap().to_string(), text);
        }
        for (wrong, word) in [
            ("127.0.0.1", "host:port"),
            ("::1:80", "brackets"),
            ("[::1:80", "host:port"),
            ("a:99999", "0 to 65535"),
            ("http://a:80", "URL"),
            ("a b:80", "host:port"),
            ("unix:", "1 to 107"),
            ("", "host:port"),
        ] {
            let error = Target::parse(wrong).unwrap_err();
            assert!(error.contains(word), "{wrong}: {error}");
            assert!(ListenAddress::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Target::parse("a:0").is_err());
        assert!(ListenAddress::parse("fd:1").is_err());
    }

    #[test]
    fn networks_contain_their_addresses_only() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.8"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
            ("::/0", "2001:db8::1", "8.8.8.8"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("127.0.0.1", "::ffff:127.0.0.1", "127.0.0.2"),
        ] {
            let network = Network::parse(block).unwrap();
            assert!(
                network.contains(inside.parse().unwrap()),
                "{block} {inside}"
            );
            assert!(
                !network.contains(outside.parse().unwrap()),
                "{block} {outside}"
            );
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "::/129",
            "host",
            "10.0.0.0/x",
            "10.0.0.0/-1",
        ] {
            assert!(Network::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_hosts_paths_and_methods() {
        assert_eq!(host("*.Example.COM").as_deref(), Ok("*.example.com"));
        assert!(host("a:80").unwrap_err().contains("port"));
        assert!(host("*").is_err() && host("a*.b").is_err() && host("").is_err());
        assert!(url_path("/a").is_ok() && url_path("a").is_err() && url_path("/a?b").is_err());
        assert!(method("get").unwrap_err().contains("`GET`"));
        assert!(field_name("X-A").is_ok() && field_name("X A").is_err());
        assert!(field_value("a\r\nb: c").is_err());
    }
}
