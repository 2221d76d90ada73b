//! Where the control plane is and how to speak to it: verified TLS, nothing else.

use std::{path::Path, sync::Arc, time::Duration};

use config_documents::{JoinAnswer, JoinRequest, NodeMessage, RotateRequest};
use credentials::Secret;
use futures_util::{FutureExt, SinkExt, StreamExt};
use reqwest::{StatusCode, Url};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WebSocketError, Message,
        client::IntoClientRequest,
        http::{HeaderValue, Uri, header::AUTHORIZATION},
        protocol::WebSocketConfig,
    },
};

/// Connecting, TLS and the upgrade together take no longer than this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream that brings nothing for this long is given up; marks come every second.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// One that enrols or renews a node waits for other nodes, for two seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const PROPAGATION_HEADER: &str = "x-wharfinger-propagation";
const BUFFER_BYTES: usize = 16 * 1024;
/// Largest message taken from the control plane. One batch of documents is one message.
const MESSAGE_BYTES_MAXIMUM: usize = 256 * 1024 * 1024;
/// Messages taken at once. The control plane sends at most 16 marks ahead of the answers.
const ARRIVED_MAXIMUM: usize = 32;

/// Where the control plane is.
#[derive(Clone)]
pub struct ControlPlane {
    url: Url,
    tls: Arc<ClientConfig>,
}

/// Why the control plane did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The URL cannot be used.
    #[error("'{url}' is not the URL of a control plane: {rule}")]
    Url {
        /// What was given.
        url: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The authorities to trust could not be loaded.
    #[error("cannot verify the control plane")]
    Tls(#[from] service::tls::TlsError),
    /// No connection, or one that broke.
    #[error("cannot reach the control plane: {0}")]
    Unreachable(String),
    /// It answered that it will not.
    #[error("the control plane answered {status}: {message}")]
    Refused {
        /// The status of its answer.
        status: u16,
        /// What it said.
        message: String,
    },
    /// It answered something that is not in the protocol.
    #[error("the control plane's message is not understood: {0}")]
    Message(String),
}

/// How far a change had got when its operation answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Propagated {
    /// Every node with a live lease has it.
    ToLiveNodes,
    /// A live node may lack it.
    Pending,
}

/// An open stream.
pub struct Stream {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// What ended it, while messages from before are still being applied.
    broken: Option<ControlPlaneError>,
}

impl ControlPlane {
    /// The control plane at `url`, trusted by the authorities in `ca_file`, or by those of the system.
    ///
    /// # Errors
    /// [`ControlPlaneError::Url`] and [`ControlPlaneError::Tls`].
    pub fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, ControlPlaneError> {
        let refuse = |rule| ControlPlaneError::Url {
            url: url.to_owned(),
            rule,
        };
        let parsed = Url::parse(url).map_err(|_| refuse("it is not a URL"))?;
        if parsed.scheme() != "https" {
            return Err(refuse("it must begin with https://"));
        }
        if parsed.host_str().is_none() {
            return Err(refuse("it names no host"));
        }
        if !parsed.username().is_empty() || parsed.query().is_some() || parsed.fragment().is_some()
        {
            return Err(refuse("it must be a host, and a path at most"));
        }
        let tls = service::tls::client_config(ca_file)?;
        Ok(Self {
            url: parsed,
            tls: Arc::new(tls),
        })
    }

    /// Asks to become a node, once.
    ///
    /// # Errors
    /// [`ControlPlaneError::Unreachable`] may be tried again; [`ControlPlaneError::Refused`] with
    /// a status below 500 (and not 429) may not.
    pub async fn join(&self, request_body: &JoinRequest) -> Result<JoinAnswer, ControlPlaneError> {
        let request = self
            .client()?
            .post(self.endpoint("https", "/config/v1/join"));
        let response = answered(request.json(request_body)).await?;
        let body = response.bytes().await.map_err(unreachable)?;
        serde_json::from_slice(&body).map_err(|error| ControlPlaneError::Message(error.to_string()))
    }

    /// Announces a new credential and key of the node whose credential this is, and says whether other nodes have the key. It may be
    /// repeated.
    ///
    /// # Errors
    /// Those of [`Self::join`].
    pub(super) async fn rotate(
        &self,
        credential: &Secret,
        body: &RotateRequest,
    ) -> Result<Propagated, ControlPlaneError> {
        let request = self
            .client()?
            .post(self.endpoint("https", "/config/v1/rotate"))
            .bearer_auth(credential.expose());
        let response = answered(request.json(body)).await?;
        match response.headers().get(PROPAGATION_HEADER) {
            Some(value) if value != "pending" => Ok(Propagated::ToLiveNodes),
            _ => Ok(Propagated::Pending),
        }
    }

    fn client(&self) -> Result<reqwest::Client, ControlPlaneError> {
        reqwest::Client::builder()
            .tls_backend_preconfigured((*self.tls).clone())
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(unreachable)
    }

    /// Opens a stream as the node whose credential this is.
    ///
    /// # Errors
    /// When the control plane cannot be reached, or refuses.
    pub async fn connect(&self, credential: &Secret) -> Result<Stream, ControlPlaneError> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.upgrade(credential))
            .await
            .map_err(|_| {
                ControlPlaneError::Unreachable(format!("no answer within {CONNECT_TIMEOUT:?}"))
            })?
    }

    async fn upgrade(&self, credential: &Secret) -> Result<Stream, ControlPlaneError> {
        let host = self.url.host_str().unwrap_or_default();
        // An IPv6 address stands in brackets in a URL, and nowhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_or_known_default().unwrap_or(443);
        let tcp = TcpStream::connect((host, port))
            .await
            .map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let name = ServerName::try_from(host.to_owned()).map_err(unreachable)?;
        let tls = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, tcp)
            .await
            .map_err(unreachable)?;
        let uri: Uri = self
            .endpoint("wss", "/config/v1/stream")
            .parse()
            .map_err(unreachable)?;
        let mut request = uri.into_client_request().map_err(unreachable)?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", credential.expose()))
            .map_err(|_| ControlPlaneError::Message("the credential is no header".to_owned()))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAXIMUM))
            .max_frame_size(Some(MESSAGE_BYTES_MAXIMUM));
        let upgraded =
            tokio_tungstenite::client_async_with_config(request, tls, Some(config)).await;
        match upgraded {
            Ok((socket, _)) => Ok(Stream {
                socket,
                broken: None,
            }),
            Err(WebSocketError::Http(response)) => Err(refused(
                response.status().as_u16(),
                response.body().as_deref().unwrap_or_default(),
            )),
            Err(error) => Err(unreachable(error)),
        }
    }

    fn endpoint(&self, scheme: &str, path: &str) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self
            .url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let base = self.url.path().trim_end_matches('/');
        format!("{scheme}://{host}{port}{base}{path}")
    }
}

impl Stream {
    /// Sends one message.
    ///
    /// # Errors
    /// When the stream is broken.
    pub async fn send(&mut self, message: &NodeMessage) -> Result<(), ControlPlaneError> {
        let text = serde_json::to_string(message).expect("messages have string keys only");
        self.socket
            .send(Message::text(text))
            .await
            .map_err(unreachable)
    }

    /// The next message and those behind it that have arrived already, in their order; at most [`ARRIVED_MAXIMUM`].
    ///
    /// # Errors
    /// When nothing came before the stream broke. What came is returned first.
    pub async fn receive_arrived<M: for<'de> Deserialize<'de>>(
        &mut self,
    ) -> Result<Vec<M>, ControlPlaneError> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        let mut arrived = vec![self.receive().await?];
        while arrived.len() < ARRIVED_MAXIMUM {
            match self.receive().now_or_never() {
                Some(Ok(message)) => arrived.push(message),
                Some(Err(error)) => {
                    self.broken = Some(error);
                    break;
                }
                None => break,
            }
        }
        Ok(arrived)
    }

    /// The next message, whatever comes first.
    async fn receive<M: for<'de> Deserialize<'de>>(&mut self) -> Result<M, ControlPlaneError> {
        loop {
            let next = tokio::time::timeout(SILENCE_TIMEOUT, self.socket.next())
                .await
                .map_err(|_| {
                    ControlPlaneError::Unreachable(format!("silent for {SILENCE_TIMEOUT:?}"))
                })?;
            let frame = match next {
                None => {
                    return Err(ControlPlaneError::Unreachable(
                        "the stream ended".to_owned(),
                    ));
                }
                Some(frame) => frame.map_err(unreachable)?,
            };
            match frame {
                Message::Text(text) => {
                    return serde_json::from_str(&text)
                        .map_err(|error| ControlPlaneError::Message(error.to_string()));
                }
                Message::Close(frame) => {
                    let reason = frame.map(|frame| frame.reason.to_string());
                    let reason = reason.filter(|reason| !reason.is_empty());
                    return Err(ControlPlaneError::Unreachable(reason.unwrap_or_else(
                        || "the control plane closed the stream".to_owned(),
                    )));
                }
                Message::Binary(_) => {
                    return Err(ControlPlaneError::Message("a binary frame".to_owned()));
                }
                // Pings are answered by the library while it reads.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    pub(super) async fn close(&mut self) {
        // Whether the other side hears it does not matter: it sees the connection end.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }
}

impl ControlPlaneError {
    /// Whether no node has the credential that was shown.
    pub(super) fn is_unknown_credential(&self) -> bool {
        matches!(self, Self::Refused { status: 401, .. })
    }

    /// Whether the control plane will go on answering so until an operator does something.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status, .. }
            if (400..500).contains(status) && *status != StatusCode::TOO_MANY_REQUESTS.as_u16())
    }
}

/// # Errors
/// When there is no answer, or it is a refusal.
async fn answered(
    request: reqwest::RequestBuilder,
) -> Result<reqwest::Response, ControlPlaneError> {
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.bytes().await.map_err(unreachable)?;
    Err(refused(status.as_u16(), &body))
}

fn unreachable(error: impl std::error::Error + 'static) -> ControlPlaneError {
    ControlPlaneError::Unreachable(service::errors::chain(&error))
}

/// The message of an ARM error body, or the beginning of whatever else was sent.
fn refused(status: u16, body: &[u8]) -> ControlPlaneError {
    #[derive(Deserialize)]
    struct Body {
        error: Fault,
    }
    #[derive(Deserialize)]
    struct Fault {
        message: String,
    }
    let message = match serde_json::from_slice::<Body>(body) {
        Ok(body) => body.error.message,
        Err(_) => String::from_utf8_lossy(body).chars().take(200).collect(),
    };
    ControlPlaneError::Refused { status, message }
}
