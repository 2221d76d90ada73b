//! The port for operators: `/metrics`, `/healthz` (the process is alive) and `/readyz` (it can serve).
//!
//! It is plain HTTP on an address of its own, so that it can be kept off the network that users are on.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// Connections served at once; scrapers need a few.
const MAX_CONNECTIONS: usize = 64;

/// What `/metrics` is, so that scrapers choose the right parser.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for metrics and health on {listen}")]
pub struct ObserveError {
    listen: SocketAddr,
    #[source]
    source: io::Error,
}

/// Starts the port and returns the address it has (port 0 takes a free one). Call it inside a tokio runtime.
///
/// It serves until the process ends: `/readyz` must still answer while the process stops.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(
    listen: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
) -> Result<SocketAddr, ObserveError> {
    start(listen, metrics, readiness, None).map_err(|source| ObserveError { listen, source })
}

/// A page of JSON that only this kind of process has.
#[derive(Clone)]
pub struct Page {
    /// Where it stands.
    pub path: &'static str,
    /// Says what is on it now.
    pub show: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// [`serve`] with one page more.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve_with(
    listen: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
    page: Page,
) -> Result<SocketAddr, ObserveError> {
    start(listen, metrics, readiness, Some(page)).map_err(|source| ObserveError { listen, source })
}

fn start(
    listen: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
    page: Option<Page>,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen)?;
    let bound = listener.local_addr()?;
    let metrics = web::Data::new(metrics);
    let readiness = web::Data::new(readiness);
    let server = HttpServer::new(move || {
        let app = App::new()
            .app_data(metrics.clone())
            .app_data(readiness.clone())
            .route("/metrics", web::get().to(show_metrics))
            .route("/healthz", web::get().to(show_health))
            .route("/readyz", web::get().to(show_readiness));
        match page.clone() {
            None => app,
            Some(page) => app.route(
                page.path,
                web::get().to(move || {
                    let shown = (page.show)();
                    async move { HttpResponse::Ok().json(shown) }
                }),
            ),
        }
    })
    .listen(listener)?
    .workers(1)
    .worker_max_blocking_threads(1)
    .max_connections(MAX_CONNECTIONS)
    .disable_signals()
    .run();
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(listen = %bound, error = %error, "the metrics and health port ended: {error}");
        }
    });
    tracing::info!(listen = %bound, "metrics and health on http://{bound}/metrics");
    Ok(bound)
}

async fn show_metrics(metrics: web::Data<Metrics>) -> HttpResponse {
    match metrics.encode() {
        Ok(text) => HttpResponse::Ok().content_type(OPEN_METRICS).body(text),
        Err(error) => {
            tracing::error!("metrics cannot be encoded: {error}");
            HttpResponse::InternalServerError().finish()
        }
    }
}

async fn show_health() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::plaintext())
        .body("alive\n")
}

async fn show_readiness(readiness: web::Data<Readiness>) -> HttpResponse {
    let report = readiness.report();
    let mut response = if report.is_ready() {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    response.json(report)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("reads");
        response
    }

    #[tokio::test]
    async fn readiness_is_503_until_every_check_is_ready() {
        let readiness = Readiness::new(&["database"]);
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let address =
            serve(any_port, Metrics::new("test"), readiness.clone()).expect("a free port");
        readiness.set("database", Err("connection refused".to_owned()));
        let waiting = get(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503 "), "{waiting}");
        assert!(waiting.contains(
            r#"{"ready":false,"checks":{"database":{"ready":false,"detail":"connection refused"}}}"#
        ));
        readiness.set("database", Ok("connected".to_owned()));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        let metrics = get(address, "/metrics").await;
        assert!(
            metrics.contains("process_resident_memory_bytes"),
            "{metrics}"
        );
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = taken.local_addr().expect("bound");
        let error = serve(address, Metrics::new("test"), Readiness::new(&["database"]))
            .expect_err("the port is taken");
        assert_eq!(
            crate::errors::chain(&error),
            format!(
                "cannot listen for metrics and health on {address}: Address already in use (os error 98)"
            )
        );
    }
}
