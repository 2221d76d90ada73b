//! What HTTP/2 clients see that libraries hide: frames, written and read by hand (RFC 9113, 4.1).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine};
use registry_node::limits::UNREAD_BODY_TIME_MAXIMUM;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{node::Node, rounds::undisturbed};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACKNOWLEDGED: u8 = 1;

/// Type and flags of a frame.
type Seen = (u8, u8);

struct Connection {
    writer: WriteHalf<TlsStream<TcpStream>>,
    /// Read by a task of its own, so that whoever gives up waiting loses no part of a frame.
    frames: UnboundedReceiver<Seen>,
}

impl Connection {
    async fn open(node: &Node) -> Self {
        let mut tls =
            service::tls::client_config(Some(&node.certificate())).expect("a certificate");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(("127.0.0.1", node.port)).await;
        let name = ServerName::try_from("contoso.registry.localhost").expect("a name");
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, tcp.expect("an open port"))
            .await
            .expect("TLS");
        let (reader, mut writer) = tokio::io::split(stream);
        let (seen, frames) = unbounded_channel();
        tokio::spawn(read_frames(reader, seen));
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        writer.write_all(preface).await.expect("sent");
        let mut connection = Self { writer, frames };
        connection.send(SETTINGS, 0, 0, b"").await;
        connection
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.writer.write_all(&frame).await.expect("sent");
        self.writer.flush().await.expect("sent");
    }

    /// The next frame.
    async fn receive(&mut self) -> Seen {
        self.frames.recv().await.expect("a frame")
    }
}

async fn read_frames(mut reader: ReadHalf<TlsStream<TcpStream>>, seen: UnboundedSender<Seen>) {
    let mut head = [0; 9];
    while reader.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        let is_whole = reader.read_exact(&mut payload).await.is_ok();
        if !is_whole || seen.send((head[3], head[4])).is_err() {
            return;
        }
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

/// What is seen of the answer to a request whose body comes a moment later, up to its end or a reset.
async fn frames_of_answer(connection: &mut Connection, fields: &[u8]) -> Vec<Seen> {
    connection.send(HEADERS, END_HEADERS, 1, fields).await;
    let mut seen = Vec::new();
    // An answer that does not wait for the body comes now.
    let early = async {
        while !is_reset(&seen) {
            seen.push(connection.receive().await);
        }
    };
    let _ = timeout(Duration::from_millis(300), early).await;
    connection.send(DATA, END_STREAM, 1, b"hello").await;
    connection.send(PING, 0, 0, &[0; 8]).await;
    let is_end = |(kind, flags): &Seen| *kind == DATA && flags & END_STREAM != 0;
    let is_pong = |(kind, flags): &Seen| *kind == PING && flags & ACKNOWLEDGED != 0;
    while !is_reset(&seen) && (!seen.iter().any(is_end) || !seen.iter().any(is_pong)) {
        let next = timeout(Duration::from_secs(60), connection.receive()).await;
        seen.push(next.expect("an answer"));
    }
    seen
}

fn is_reset(seen: &[Seen]) -> bool {
    seen.iter().any(|(kind, _)| *kind == RESET)
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
        let fields = fields(method, &authority, path, authorization);
        let seen = undisturbed(async || {
            let mut connection = Connection::open(&node).await;
            let began = Instant::now();
            let seen = frames_of_answer(&mut connection, &fields).await;
            // A body that was late is stopped by a reset, as it should be.
            let may_be_late = began.elapsed() >= UNREAD_BODY_TIME_MAXIMUM;
            (!is_reset(&seen) || !may_be_late).then_some(seen)
        })
        .await;
        assert!(!is_reset(&seen), "{method} {path}: {seen:?}");
    }
}
