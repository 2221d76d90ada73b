//! Ports: the ones that users know, and the ones that are found and remembered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use super::error::DevError;

/// Where free ports are looked for: above the well-known ones and below those that systems give to outgoing
/// connections, so that a remembered port is still free at the next start.
const FIRST: u16 = 20_000;
const LAST: u16 = 29_999;

/// The addresses of this machine that nobody else can reach: 127.0.0.1, and ::1 where there is one.
pub(crate) fn loopback_addresses() -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        addresses.push(IpAddr::from(Ipv6Addr::LOCALHOST));
    }
    addresses
}

/// Refuses a port that cannot be listened on at each of the addresses.
pub(crate) fn check(addresses: &[IpAddr], port: u16, flag: &'static str) -> Result<(), DevError> {
    for ip in addresses {
        let address = SocketAddr::new(*ip, port);
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(DevError::PortInUse { address, flag });
            }
            Err(source) => {
                return Err(DevError::Listen {
                    address,
                    flag,
                    source,
                });
            }
        }
    }
    Ok(())
}

/// The remembered port if it is free on the loopback addresses, else another free one that is not among `taken`.
///
/// `random` chooses where the search begins, so that installations on one machine do not meet.
pub(crate) fn remembered_or_free(
    remembered: Option<u16>,
    taken: &[u16],
    random: u16,
) -> Result<u16, DevError> {
    let span = LAST - FIRST + 1;
    let found = remembered
        .into_iter()
        .chain((0..span).map(|step| FIRST + (random % span + step) % span))
        .find(|port| !taken.contains(port) && is_free(*port));
    found.ok_or(DevError::NoFreePort {
        first: FIRST,
        last: LAST,
    })
}

fn is_free(port: u16) -> bool {
    let is_taken = |ip: IpAddr| {
        TcpListener::bind((ip, port)).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && !is_taken(Ipv6Addr::LOCALHOST.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_port_is_kept_while_it_is_free() {
        // Not one that the system chooses: it may give that to a connection as soon as it is free.
        let random = (std::process::id() % 10_000) as u16;
        let port = remembered_or_free(None, &[], random).expect("a free port");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
        let other = remembered_or_free(Some(port), &[], 7).expect("a free port");
        assert!(other != port && (FIRST..=LAST).contains(&other));
        drop(listener);
        assert_eq!(remembered_or_free(Some(port), &[], 7).expect("free"), port);
        assert_ne!(
            remembered_or_free(Some(port), &[port], 7).expect("free"),
            port
        );
    }

    #[test]
    fn a_port_in_use_is_named_with_the_option_that_changes_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let error = check(&[address.ip()], address.port(), "--port").expect_err("in use");
        let port = address.port();
        assert_eq!(
            error.to_string(),
            format!(
                "port {port} is in use by another program ({address}); choose another with --port"
            )
        );
    }
}
