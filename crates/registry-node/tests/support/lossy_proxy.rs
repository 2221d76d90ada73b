//! A proxy between a node and an object store that loses answers: a request is carried out, and the connection ends before its
//! answer. HTTP/1.1 with `Content-Length`, which is what the clients of object stores speak.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// No request, counted from 0.
pub(crate) const NEVER: usize = usize::MAX;

/// Counts the requests that change something, and loses the answer to one of them.
pub(crate) struct LossyProxy {
    /// The URL to use in the place of the server's.
    pub(crate) endpoint: String,
    changes: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
}

impl LossyProxy {
    /// In front of `endpoint`, `http://HOST:PORT[/PATH]`.
    pub(crate) async fn start(endpoint: &str) -> Self {
        let rest = endpoint.strip_prefix("http://").expect("plain HTTP");
        let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let proxy = Self {
            endpoint: format!("http://{address}/{path}")
                .trim_end_matches('/')
                .to_owned(),
            changes: Arc::new(AtomicUsize::new(0)),
            lost: Arc::new(AtomicUsize::new(NEVER)),
        };
        let (changes, lost) = (Arc::clone(&proxy.changes), Arc::clone(&proxy.lost));
        let server = server.to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (changes, lost) = (Arc::clone(&changes), Arc::clone(&lost));
                let server = server.clone();
                tokio::spawn(async move {
                    // An error is the end of one of the connections, which ends the other.
                    let _ = carry(client, &server, &changes, &lost).await;
                });
            }
        });
        proxy
    }

    /// Counts from 0 again, and loses the answer to that request.
    pub(crate) fn lose(&self, number: usize) {
        self.changes.store(0, Ordering::SeqCst);
        self.lost.store(number, Ordering::SeqCst);
    }

    /// How many requests that change something there were.
    pub(crate) fn changes(&self) -> usize {
        self.changes.load(Ordering::SeqCst)
    }
}

async fn carry(
    mut client: TcpStream,
    server: &str,
    changes: &AtomicUsize,
    lost: &AtomicUsize,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    loop {
        let request = message(&mut client, false).await?;
        let is_change = !request.starts_with(b"GET") && !request.starts_with(b"HEAD");
        let is_lost =
            is_change && changes.fetch_add(1, Ordering::SeqCst) == lost.load(Ordering::SeqCst);
        server.write_all(&request).await?;
        let answer = message(&mut server, request.starts_with(b"HEAD")).await?;
        if is_lost {
            return Ok(());
        }
        client.write_all(&answer).await?;
    }
}

/// One whole message.
async fn message(stream: &mut TcpStream, has_no_body: bool) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let head_bytes = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_bytes]).to_lowercase();
    let header = |name: &str| {
        let line = head.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    if has_no_body {
        return Ok(bytes);
    }
    if header("transfer-encoding:").is_some() {
        while !bytes.ends_with(b"0\r\n\r\n") {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        return Ok(bytes);
    }
    let length: usize = header("content-length:").map_or(0, |text| text.parse().expect("a number"));
    while bytes.len() < head_bytes + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}
