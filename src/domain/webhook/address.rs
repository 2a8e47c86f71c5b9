//! Where webhooks may go: to addresses of the public internet, so that nobody who may register a URL can make this
//! process speak to what only it can reach.
//!
//! What is public is what IANA's special-purpose registries (RFC 6890 and what came after) don't reserve.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

const LONGEST: usize = 2_048;

/// Why an address isn't one of the public internet; `None` for one that is.
pub fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => refusal_v4(address),
        IpAddr::V6(address) => refusal_v6(address),
    }
}

fn refusal_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0, ..) => Some("unspecified"),
        (127, ..) => Some("loopback"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("private"),
        (169, 254, _) => Some("link-local"),
        (100, 64..=127, _) => Some("shared by a carrier's customers"),
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => Some("reserved"),
        (224..=239, ..) => Some("multicast"),
        (240.., ..) => Some("reserved"),
        _ => None,
    }
}

fn refusal_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    let tail = Ipv4Addr::from((u32::from(segments[6]) << 16) | u32::from(segments[7]));
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        // IPv4 in the clothes of IPv6: mapped, compatible, and behind a NAT64.
        [0, 0, 0, 0, 0, 0xffff | 0, ..] => refusal_v4(tail),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => refusal_v4(tail),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Some("private"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        // Teredo and what else is assigned to protocols; 6to4, whose IPv4 may be any; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => Some("reserved"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("reserved"),
    }
}

/// Reads the URL of an endpoint.
///
/// A name is looked up only when something is sent: today's answer says nothing of tomorrow's.
///
/// # Errors
/// What is wrong with it. No part of it is quoted: it may hold a key.
pub fn endpoint_url(text: &str, allow_private: bool) -> Result<Url, String> {
    if text.len() > LONGEST {
        return Err(format!("must be at most {LONGEST} bytes long"));
    }
    let url =
        Url::parse(text.trim()).map_err(|problem| format!("must be a URL, http:// or https://: {problem}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https://, or http://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password: the signature says who sends it".into());
    }
    if url.port() == Some(0) {
        return Err("must not name port 0".into());
    }
    if url.as_str().len() > LONGEST {
        return Err(format!("must be at most {LONGEST} bytes long"));
    }
    match refused_host(&url).filter(|_| !allow_private) {
        Some(reason) => {
            Err(format!("leads to an address that is {reason}; only webhook.allow_private allows that"))
        }
        None => Ok(url),
    }
}

/// Where a URL leads, without what may be a key: its path and its query.
pub fn origin(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "…".to_owned(), |url| format!("{}/…", url.origin().ascii_serialization()))
}

/// Why the host of a URL may not be spoken to, as far as that can be told without looking it up. All spellings of an
/// IPv4 address (`2130706433`, `0x7f.1`, `0177.0.0.1`) are one address to the URL's own rules.
pub fn refused_host(url: &Url) -> Option<&'static str> {
    match url.host() {
        Some(Host::Ipv4(address)) => refusal_v4(address),
        Some(Host::Ipv6(address)) => refusal_v6(address),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            (name == "localhost" || name.ends_with(".localhost")).then_some("loopback")
        }
        None => Some("missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> Option<String> {
        endpoint_url(url, false).err()
    }

    #[test]
    fn every_spelling_of_an_address_inside_is_refused() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "127.255.255.254",
            "0.0.0.0",
            "0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "0xa9fea9fe",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:10.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::a00:1]",
            "[64:ff9b:1::1]",
            "[fe80::1]",
            "[febf::1]",
            "[fec0::1]",
            "[fc00::1]",
            "[fdff::1]",
            "[ff02::1]",
            "[2001::1]",
            "[2001:db8::1]",
            "[2002:7f00:1::]",
            "[2002:808:808::]",
            "[100::1]",
            "[3fff::1]",
            "[5f00::1]",
            "[1::1]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "%6cocalhost",
            "１２７.0.0.1",
        ] {
            let problem = refused(&format!("http://{host}/hook"));
            assert!(problem.is_some_and(|problem| problem.contains("webhook.allow_private")), "{host}");
            assert!(endpoint_url(&format!("http://{host}/hook"), true).is_ok(), "{host}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_allowed() {
        for host in [
            "8.8.8.8",
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "169.253.1.1",
            "223.255.255.255",
            "[2606:4700::1111]",
            "[2001:4860:4860::8888]",
            "[64:ff9b::8.8.8.8]",
            "[::ffff:8.8.8.8]",
            "example.com",
            "localhost.example.com",
            "notlocalhost",
        ] {
            assert_eq!(refused(&format!("https://{host}:8443/hook?key=1")), None, "{host}");
        }
    }

    #[test]
    fn what_is_no_address_of_an_endpoint_says_why_and_quotes_nothing() {
        for (url, told) in [
            ("", "must be a URL"),
            ("example.com/hook", "must be a URL"),
            ("http://", "must be a URL"),
            ("http://1.2.3.4.5/", "must be a URL"),
            ("ftp://example.com/", "must begin with https://"),
            ("file:///etc/passwd", "must begin with https://"),
            ("https://someone:hidden@example.com/", "must not hold a user or a password"),
            ("https://someone@example.com/", "must not hold a user or a password"),
            ("https://example.com:0/", "must not name port 0"),
        ] {
            let problem = endpoint_url(url, true).unwrap_err();
            assert!(problem.starts_with(told) && !problem.contains("hidden"), "{url}: {problem}");
        }
        let long = format!("https://example.com/{}", "a".repeat(LONGEST));
        assert!(endpoint_url(&long, true).unwrap_err().contains("2048"));
    }
}
