//! One kept-alive HTTPS connection, and requests on it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LINK, LOCATION,
};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// docker-registry gives an OCI manifest only to those who say that they accept it.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, */*";

/// What ends the load.
pub(crate) type Problem = Box<dyn std::error::Error + Send + Sync>;

/// The registry, and how it is reached.
pub(crate) struct Target {
    address: SocketAddr,
    host: HeaderValue,
    name: ServerName<'static>,
    tls: TlsConnector,
    authorization: Option<HeaderValue>,
}

impl Target {
    pub(crate) fn new(
        address: SocketAddr,
        host: &str,
        ca: &Path,
        authorization: Option<&str>,
    ) -> Result<Self, Problem> {
        let mut tls = service::tls::client_config(Some(ca))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        Ok(Self {
            address,
            host: host.parse()?,
            name: ServerName::try_from(name.to_owned())?,
            tls: TlsConnector::from(Arc::new(tls)),
            authorization: authorization.map(str::parse).transpose()?,
        })
    }
}

/// A request's body: some bytes first, and then the same piece again and again. So a large body takes little memory, and is like no other.
#[derive(Clone, Default)]
pub(crate) struct Pieces {
    head: Bytes,
    piece: Bytes,
    left: u64,
}

impl Pieces {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self {
            left: bytes.len() as u64,
            head: bytes,
            piece: Bytes::new(),
        }
    }

    pub(crate) fn repeated(head: Bytes, piece: Bytes, length: u64) -> Self {
        Self {
            head,
            piece,
            left: length,
        }
    }

    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let next = match self.head.is_empty() {
            true => self.piece.clone(),
            false => std::mem::take(&mut self.head),
        };
        let length = self.left.min(next.len() as u64);
        self.left -= length;
        (length > 0).then(|| next.slice(..usize::try_from(length).expect("it is a part")))
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().next().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An answer; the bytes of its body, or only their number.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) length: u64,
}

impl Answer {
    /// Path and query at which something goes on, whether the registry says it with or without its name.
    pub(crate) fn location(&self) -> Result<String, Problem> {
        let text = self.headers.get(LOCATION).ok_or("no Location")?.to_str()?;
        Ok(match text.split_once("://") {
            Some((_, rest)) => rest[rest.find('/').unwrap_or(rest.len())..].to_owned(),
            None => text.to_owned(),
        })
    }

    /// Path and query of the next page.
    pub(crate) fn next_page(&self) -> Result<Option<String>, Problem> {
        let Some(link) = self.headers.get(LINK) else {
            return Ok(None);
        };
        let path = link.to_str()?.trim_start_matches('<');
        Ok(path.split_once('>').map(|(path, _)| path.to_owned()))
    }
}

/// One client.
pub(crate) struct Client {
    target: Arc<Target>,
    sender: SendRequest<Pieces>,
}

impl Client {
    pub(crate) async fn connect(target: &Arc<Target>) -> Result<Self, Problem> {
        let tcp = TcpStream::connect(target.address).await?;
        tcp.set_nodelay(true)?;
        let tls = target.tls.connect(target.name.clone(), tcp).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Self {
            target: Arc::clone(target),
            sender,
        })
    }

    /// A request without body whose answer is read and counted.
    pub(crate) async fn get(&mut self, path: &str, is_kept: bool) -> Result<Answer, Problem> {
        let body = Pieces::default();
        self.send(Method::GET, path, "", body, &[StatusCode::OK], is_kept)
            .await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        media_type: &str,
        body: Pieces,
        expected: &[StatusCode],
        is_kept: bool,
    ) -> Result<Answer, Problem> {
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header(ACCEPT, ACCEPTED)
            .header(HOST, self.target.host.clone());
        if let Some(authorization) = &self.target.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if !media_type.is_empty() {
            request = request.header(CONTENT_TYPE, media_type);
        }
        self.sender.ready().await?;
        let answer = self.sender.send_request(request.body(body)?).await?;
        let (head, mut body) = answer.into_parts();
        let is_expected = expected.contains(&head.status);
        let (body, length) = read(&mut body, is_kept || !is_expected).await?;
        if !is_expected {
            let text = String::from_utf8_lossy(&body);
            return Err(format!("{method} {path}: {} {text}", head.status).into());
        }
        Ok(Answer {
            headers: head.headers,
            body,
            length,
        })
    }
}

/// The body to its end: its bytes if they are kept, and how many there were.
async fn read(body: &mut Incoming, is_kept: bool) -> Result<(Vec<u8>, u64), Problem> {
    let (mut kept, mut length) = (Vec::new(), 0);
    while let Some(frame) =
        std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    {
        if let Ok(bytes) = frame?.into_data() {
            length += bytes.len() as u64;
            if is_kept {
                kept.extend_from_slice(&bytes);
            }
        }
    }
    Ok((kept, length))
}
