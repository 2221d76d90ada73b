//! Which registry a request is for, as the `Host` header or `:authority` says it.

/// The host and port of a request, ready for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHost {
    host: String,
    port: Option<u16>,
}

impl RequestHost {
    /// Parses `host[:port]`, in any casing. A final dot of the host is passed over.
    ///
    /// `None` for anything that cannot be the login server of a registry.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            None => (text, None),
            Some((host, port)) => {
                let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                (host, Some(port.parse().ok().filter(|_| is_number)?))
            }
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_name = !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        is_name.then(|| Self {
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// In lower case, without port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether a request for this host is one for the login server: the port may be left out, but
    /// another one is another server.
    pub fn is_of(&self, login_server: &str) -> bool {
        let (host, port) = match login_server.rsplit_once(':') {
            None => (login_server, Some(443)),
            Some((host, port)) => (host, port.parse().ok()),
        };
        self.host.eq_ignore_ascii_case(host) && (self.port.is_none() || self.port == port)
    }
}
