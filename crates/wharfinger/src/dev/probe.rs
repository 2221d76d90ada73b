//! Asking a child whether it serves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::postgres::postmaster;

/// A child that does not answer within this is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How a child shows that it serves.
#[derive(Clone, Debug)]
pub(crate) enum Probe {
    /// `/readyz` on its metrics address answers 200.
    Http(SocketAddr),
    /// The postmaster says so in the database's directory.
    Postgres {
        /// The database's directory.
        data: PathBuf,
    },
}

#[derive(Deserialize)]
struct Report {
    checks: std::collections::BTreeMap<String, Check>,
}

#[derive(Deserialize)]
struct Check {
    ready: bool,
    detail: String,
}

impl Probe {
    /// `Ok` when the child with this process id serves; otherwise what it waits for.
    pub(crate) async fn ask(&self, process_id: u32) -> Result<(), String> {
        match self {
            Self::Http(address) => match timeout(ANSWER_TIMEOUT, get_ready(*address)).await {
                Ok(Ok(response)) => judge(&response),
                Ok(Err(error)) => Err(format!("http://{address}/readyz: {error}")),
                Err(_too_long) => Err(format!("http://{address}/readyz does not answer")),
            },
            // A file that a killed postmaster left behind names another process.
            Self::Postgres { data } => match postmaster(data) {
                Some((id, true)) if u32::try_from(id) == Ok(process_id) => Ok(()),
                _ => Err("Postgres does not take connections yet".to_owned()),
            },
        }
    }
}

async fn get_ready(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

fn judge(response: &str) -> Result<(), String> {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head.split_whitespace().nth(1).unwrap_or("nothing");
    if status == "200" {
        return Ok(());
    }
    let Ok(report) = serde_json::from_str::<Report>(body) else {
        return Err(format!("/readyz answers {status}"));
    };
    let waiting: Vec<String> = report
        .checks
        .into_iter()
        .filter(|(_, check)| !check.ready)
        .map(|(name, check)| format!("{name}: {}", check.detail))
        .collect();
    Err(waiting.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_ready_and_the_rest_says_what_is_waited_for() {
        assert_eq!(judge("HTTP/1.1 200 OK\r\n\r\n{}"), Ok(()));
        let waiting = "HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\n{\"ready\":false,\"checks\":{\
            \"database\":{\"ready\":true,\"detail\":\"connected\"},\
            \"feed\":{\"ready\":false,\"detail\":\"no head yet\"}}}";
        assert_eq!(judge(waiting), Err("feed: no head yet".to_owned()));
        assert_eq!(judge(""), Err("/readyz answers nothing".to_owned()));
        assert_eq!(
            judge("HTTP/1.1 404 Not Found\r\n\r\n"),
            Err("/readyz answers 404".to_owned())
        );
    }

    #[tokio::test]
    async fn a_postmaster_file_of_another_process_is_not_ready() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let probe = Probe::Postgres {
            data: directory.path().to_owned(),
        };
        assert!(probe.ask(123).await.is_err());
        let file = "123\n/data\n1700000000\n5432\n\n127.0.0.1\n 1 2\nready   \n";
        std::fs::write(directory.path().join("postmaster.pid"), file).expect("write");
        assert_eq!(probe.ask(123).await, Ok(()));
        assert!(probe.ask(124).await.is_err());
    }
}
