//! What HTTP/2 clients see that libraries hide: frames, written and read by hand (RFC 9113, 4.1).

use std::{sync::Arc, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::node::Node;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACKNOWLEDGED: u8 = 1;

struct Connection(TlsStream<TcpStream>);

impl Connection {
    async fn open(node: &Node) -> Self {
        let mut tls =
            service::tls::client_config(Some(&node.certificate())).expect("a certificate");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(("127.0.0.1", node.port)).await;
        let name = ServerName::try_from("contoso.registry.localhost").expect("a name");
        let mut stream = TlsConnector::from(Arc::new(tls))
            .connect(name, tcp.expect("an open port"))
            .await
            .expect("TLS");
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        stream.write_all(preface).await.expect("sent");
        let mut connection = Self(stream);
        connection.send(SETTINGS, 0, 0, b"").await;
        connection
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.expect("sent");
        self.0.flush().await.expect("sent");
    }

    /// Type and flags of the next frame.
    async fn receive(&mut self) -> (u8, u8) {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.expect("its payload");
        (head[3], head[4])
    }
}

/// The fields of a request with a body of five bytes, in HPACK without compression.
fn fields(method: &str, authority: &str, path: &str, authorization: &str) -> Vec<u8> {
    let mut fields = vec![0x87];
    for (name, value) in [
        (&[0x02_u8][..], method),
        (&[0x01], authority),
        (&[0x04], path),
        (&[0x0f, 0x0d], "5"),
        (&[0x0f, 0x08], authorization),
    ] {
        fields.extend(name);
        fields.push(u8::try_from(value.len()).expect("short"));
        fields.extend(value.as_bytes());
    }
    fields
}

/// A stream that is reset behind its answer makes some clients lose the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_with_a_small_body_is_answered_without_a_reset() {
    let node = Node::start().await;
    let authority = format!("contoso.registry.localhost:{}", node.port);
    let login = BASE64_STANDARD.encode(format!("contoso:{}", node.passwords[0].expose()));
    let (nobody, admin) = (String::new(), format!("Basic {login}"));
    let unknown_upload = "/v2/app/blobs/uploads/00000000-0000-0000-0000-000000000000";
    for (method, path, authorization) in [
        ("POST", "/oauth2/exchange", &nobody),
        ("POST", "/v2/app/blobs/uploads/", &nobody),
        // What is refused only where the body would be taken.
        ("PATCH", unknown_upload, &admin),
    ] {
        let mut connection = Connection::open(&node).await;
        let fields = fields(method, &authority, path, authorization);
        connection.send(HEADERS, END_HEADERS, 1, &fields).await;
        let mut seen = Vec::new();
        // An answer that does not wait for the body comes now.
        let early = async {
            while seen.last().is_none_or(|(kind, _)| *kind != RESET) {
                seen.push(connection.receive().await);
            }
        };
        let _ = timeout(Duration::from_millis(300), early).await;
        connection.send(DATA, END_STREAM, 1, b"hello").await;
        connection.send(PING, 0, 0, &[0; 8]).await;
        let is_end = |(kind, flags): &(u8, u8)| *kind == DATA && flags & END_STREAM != 0;
        let is_pong = |(kind, flags): &(u8, u8)| *kind == PING && flags & ACKNOWLEDGED != 0;
        while !(seen.iter().any(is_end) && seen.iter().any(is_pong)) {
            let next = timeout(Duration::from_secs(20), connection.receive()).await;
            seen.push(next.expect("an answer"));
        }
        assert!(
            seen.iter().all(|(kind, _)| *kind != RESET),
            "{method} {path}: {seen:?}"
        );
    }
}
