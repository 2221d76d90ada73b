//! What many clients do, and how long it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Client, Problem, Target};
use crate::image::Blob;

/// The registry, and how many clients it has.
pub(crate) struct Load {
    pub(crate) target: Arc<Target>,
    pub(crate) repository: String,
    pub(crate) clients: usize,
}

impl Load {
    pub(crate) async fn push(
        &self,
        blobs: usize,
        blob_bytes: usize,
        lasting: Option<Duration>,
        tag: &str,
    ) -> Result<Value, Problem> {
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            let (target, tag) = (Arc::clone(&self.target), format!("{tag}-{number}"));
            // Alone it has the tag as it was named.
            let tag = match self.clients {
                1 => tag[..tag.len() - 2].to_owned(),
                _ => tag,
            };
            let repository = self.repository.clone();
            clients.spawn(async move {
                let mut client = Client::connect(&target).await?;
                let mut taken = Vec::new();
                while taken.is_empty() || lasting.is_some_and(|lasting| began.elapsed() < lasting) {
                    let image: Vec<Blob> = (0..blobs)
                        .map(|_| Blob::random(blob_bytes as u64))
                        .collect();
                    let start = Instant::now();
                    client.push(&repository, &tag, &image).await?;
                    taken.push(start.elapsed());
                }
                Ok::<_, Problem>(taken)
            });
        }
        let taken = all(clients).await?.concat();
        Ok(
            json!({"pushes": taken.len(), "per_second": per_second(taken.len(), began), "milliseconds": latencies(taken)}),
        )
    }

    pub(crate) async fn pull(&self, rounds: usize, tag: &str) -> Result<Value, Problem> {
        let began = Instant::now();
        let mut taken = Vec::new();
        for _ in 0..rounds {
            let mut clients = JoinSet::new();
            for _ in 0..self.clients {
                let target = Arc::clone(&self.target);
                let (repository, tag) = (self.repository.clone(), tag.to_owned());
                clients.spawn(async move {
                    let start = Instant::now();
                    let mut client = Client::connect(&target).await?;
                    client.pull(&repository, &tag).await?;
                    Ok::<_, Problem>(start.elapsed())
                });
            }
            taken.extend(all(clients).await?);
        }
        Ok(
            json!({"pulls": taken.len(), "per_second": per_second(taken.len(), began), "milliseconds": latencies(taken)}),
        )
    }

    pub(crate) async fn upload(&self, bytes: u64, count: usize) -> Result<Value, Problem> {
        let mut client = Client::connect(&self.target).await?;
        let (mut seconds, mut digest) = (Duration::ZERO, String::new());
        for _ in 0..count {
            let blob = Blob::random(bytes);
            let start = Instant::now();
            client.upload(&self.repository, &blob).await?;
            seconds += start.elapsed();
            digest = blob.digest().to_owned();
        }
        let mebibytes = (bytes * count as u64) as f64 / 1024.0 / 1024.0;
        Ok(json!({"mebibytes_per_second": mebibytes / seconds.as_secs_f64(), "digest": digest}))
    }

    pub(crate) async fn read(
        &self,
        path: &str,
        count: usize,
        follows: bool,
    ) -> Result<Value, Problem> {
        let mut client = Client::connect(&self.target).await?;
        let (mut taken, mut bytes, mut pages) = (Vec::new(), 0, 0);
        for _ in 0..count {
            let start = Instant::now();
            let mut page = Some(path.to_owned());
            (bytes, pages) = (0, 0);
            while let Some(path) = page.take() {
                let answer = client.get(&path, false).await?;
                bytes += answer.length;
                pages += 1;
                if follows {
                    page = answer.next_page()?;
                }
            }
            taken.push(start.elapsed());
        }
        Ok(json!({"milliseconds": latencies(taken), "bytes": bytes, "pages": pages}))
    }

    pub(crate) async fn tags(&self, count: usize) -> Result<Value, Problem> {
        let repository = self.repository.clone();
        self.numbered(count, move |number| {
            (repository.clone(), format!("v{number:06}"))
        })
        .await
    }

    pub(crate) async fn repositories(&self, count: usize) -> Result<Value, Problem> {
        let repository = self.repository.clone();
        self.numbered(count, move |number| {
            (format!("{repository}{number:06}"), "latest".to_owned())
        })
        .await
    }

    /// The clients share the numbers.
    async fn numbered(
        &self,
        count: usize,
        place: impl Fn(usize) -> (String, String) + Clone + Send + 'static,
    ) -> Result<Value, Problem> {
        let began = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..self.clients {
            let (target, next, place) =
                (Arc::clone(&self.target), Arc::clone(&next), place.clone());
            clients.spawn(async move {
                let mut client = Client::connect(&target).await?;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok::<_, Problem>(());
                    }
                    let (repository, tag) = place(number);
                    client.put_empty_index(&repository, &tag).await?;
                }
            });
        }
        all(clients).await?;
        Ok(json!({"per_second": per_second(count, began)}))
    }
}

async fn all<T: 'static>(mut clients: JoinSet<Result<T, Problem>>) -> Result<Vec<T>, Problem> {
    let mut results = Vec::new();
    while let Some(client) = clients.join_next().await {
        results.push(client??);
    }
    Ok(results)
}

fn per_second(count: usize, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}

fn latencies(mut taken: Vec<Duration>) -> Value {
    taken.sort_unstable();
    let at = |share: f64| {
        let index = (share * (taken.len().saturating_sub(1)) as f64).round() as usize;
        taken.get(index).map_or(0.0, |it| it.as_secs_f64() * 1000.0)
    };
    json!({"p50": at(0.5), "p99": at(0.99), "maximum": at(1.0)})
}
