//! Where external issuers may be: in the world, and not in the network that the control plane stands in, unless the operator allows it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::oneshot;

use super::issuer_places::Place;

/// Looks up names for one request to an issuer, each in a thread of its own: a lookup cannot be cut short, and would hold up passwords on the
/// workers' threads.
pub(super) struct Resolver {
    /// The request's. Lookups keep it, too, so that they are as few as requests, however long they take.
    place: Arc<Place>,
    allow_private: bool,
}

/// Why a name has no address to ask.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error(
        "{0} has only addresses of the inside, which are asked only with --issuer-allow-private"
    )]
    Inside(String),
    #[error("the name cannot be looked up")]
    Lookup(#[from] std::io::Error),
    #[error("no thread can look it up")]
    Gone(#[from] oneshot::error::RecvError),
}

impl Resolver {
    pub(super) fn new(place: Arc<Place>, allow_private: bool) -> Self {
        Self {
            place,
            allow_private,
        }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (place, allow_private) = (Arc::clone(&self.place), self.allow_private);
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let addresses = in_own_thread(place, move || addresses(&host, allow_private)).await??;
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

async fn in_own_thread<T: Send + 'static>(
    place: Arc<Place>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LookupError> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("issuer-lookup".to_owned())
        .spawn(move || {
            // Whoever asked may have given up; the place is taken until the lookup is over.
            let _ = tell.send(work());
            drop(place);
        })
        .map_err(LookupError::Lookup)?;
    told.await.map_err(LookupError::Gone)
}

fn addresses(host: &str, allow_private: bool) -> Result<Vec<SocketAddr>, LookupError> {
    let all: Vec<SocketAddr> = (host, 0).to_socket_addrs()?.collect();
    let allowed: Vec<SocketAddr> = all
        .into_iter()
        .filter(|address| allow_private || is_outside(address.ip()))
        .collect();
    if allowed.is_empty() {
        return Err(LookupError::Inside(host.to_owned()));
    }
    Ok(allowed)
}

/// Whether a URL may be asked as far as it says an address itself. Names are looked at when they are looked up.
pub(super) fn is_allowed(url: &reqwest::Url, allow_private: bool) -> bool {
    // A URL writes an address in one way only once it is parsed, of IPv6 in brackets.
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    allow_private || address.map_or(true, is_outside)
}

/// Whether an address is one of the world.
fn is_outside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_outside_v4(address),
        IpAddr::V6(address) => is_outside_v6(address),
    }
}

fn is_outside_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let is_inside = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || first == 0
        // Shared by the customers of a provider, and used inside clouds (RFC 6598).
        || (first == 100 && (64..128).contains(&second))
        || (first, second, third) == (192, 0, 0)
        // Measurements (RFC 2544).
        || (first == 198 && (18..20).contains(&second))
        || first >= 240;
    !is_inside
}

/// What stands for an IPv4 address is judged as that.
fn is_outside_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_outside_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Global unicast is 2000::/3; in it Teredo (2001::/32) leads to addresses behind it.
        [0x2001, 0, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::super::issuer_places::Places;
    use super::*;
    use crate::limits::ISSUER_FETCHES_OF_HOST;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_slow_lookup_keeps_its_place_when_nobody_waits_for_it_any_more() {
        let places = Places::new();
        let mut ends = Vec::new();
        for _ in 0..ISSUER_FETCHES_OF_HOST {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let place = Arc::new(places.take("slow").await);
            let looked_up = in_own_thread(place, move || ended.recv()).now_or_never();
            assert!(looked_up.is_none(), "it goes on");
            ends.push(end);
        }
        assert!(places.take("slow").now_or_never().is_none());
        drop(ends);
        places.take("slow").await;
    }

    #[test]
    fn addresses_of_the_inside_are_told_from_those_of_the_world() {
        for outside in [
            "20.190.128.1",
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(is_outside(outside.parse().expect(outside)), "{outside}");
        }
        for inside in [
            "0.0.0.0",
            "127.0.0.1",
            "127.8.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001::1",
        ] {
            assert!(!is_outside(inside.parse().expect(inside)), "{inside}");
        }
    }

    #[test]
    fn urls_that_write_addresses_otherwise_are_seen_through() {
        let allowed = |text: &str| is_allowed(&text.parse().expect(text), false);
        for text in [
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]:8443/",
            "https://127.1",
        ] {
            assert!(!allowed(text), "{text}");
            assert!(is_allowed(&text.parse().expect(text), true), "{text}");
        }
        assert!(allowed("https://token.example/"));
    }
}
