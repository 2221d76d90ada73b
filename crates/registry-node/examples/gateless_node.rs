//! A node's content and its handlers with no gate before them: everybody may do everything in one registry, and nobody is asked, counted or
//! logged. What a request costs a node more than this one is what the gate costs.
//!
//! `cargo run --release -p registry-node --example gateless_node -- --help`

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use clap::Parser;
use registry_node::{
    content::{Content, OpenOptions, Sources},
    names::RepositoryName,
    oci::{self, OciError, RepositoryAction, Route},
};
use service::tls::TlsArguments;
use uuid::Uuid;

/// As many as a node has.
const WORKERS: usize = 2;

#[derive(Parser)]
struct Arguments {
    /// Directory of the region's content; a node may use it too
    #[arg(long)]
    content_dir: PathBuf,
    /// Region of the content
    #[arg(long)]
    region: String,
    /// The registry whose content is served, under whatever name
    #[arg(long)]
    registry: Uuid,
    /// Address for clients
    #[arg(long)]
    listen: SocketAddr,
    #[command(flatten)]
    tls: TlsArguments,
}

/// Whoever asks.
struct Everybody;

impl oci::Caller for Everybody {
    fn may(&self, _: &RepositoryName, _: RepositoryAction) -> bool {
        true
    }

    fn name(&self) -> &str {
        "everybody"
    }
}

async fn answer(
    content: &Content,
    registry: Uuid,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, OciError> {
    let route = Route::parse(request.method(), request.path(), request.query_string())?;
    oci::serve(content, registry, &Everybody, route, &request, payload).await
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    service::install_crypto_provider();
    let arguments = Arguments::parse();
    let options = OpenOptions {
        region: arguments.region,
        single_node: false,
    };
    let content = Content::open(&arguments.content_dir, options, Sources::of_the_system()).await?;
    let content = Arc::new(content);
    let tls = service::tls::server_config(&arguments.tls)?;
    let registry = arguments.registry;
    let server = HttpServer::new(move || {
        let content = Arc::clone(&content);
        App::new().default_service(web::to(move |request, payload| {
            let content = Arc::clone(&content);
            async move {
                answer(&content, registry, request, payload)
                    .await
                    .unwrap_or_else(OciError::into_response)
            }
        }))
    })
    .workers(WORKERS)
    .bind_rustls_0_23(arguments.listen, tls)?;
    Ok(server.run().await?)
}
