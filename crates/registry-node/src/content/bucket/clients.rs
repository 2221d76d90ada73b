//! The clients of a bucket. There are three, because a request is repeated, or given up, for different reasons: reads of records
//! are repeated; writes of records never are, since a write that was repeated behind our back can be refused because of
//! itself; transfers of data take as long as they take.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::{HttpConnector, ReqwestConnector};
use object_store::list::PaginatedListStore;
use object_store::signer::Signer;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use super::removal::ConditionalRemoval;
use super::{BucketCredentials, BucketError, BucketKind, BucketLocation, BucketOptions};
use crate::limits::{
    STORE_CONNECT_TIMEOUT, STORE_REPEAT_TIMEOUT, STORE_REQUEST_TIMEOUT, STORE_SILENCE_TIMEOUT,
};

/// How often a request that only reads, or that can be repeated, is repeated.
const REPEATS_MAXIMUM: usize = 5;

/// What tells a process of S3 who it is, where no key was given: a web identity, a container's role; else the instance's role.
const S3_IDENTITY: [&str; 8] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
];
/// The same of Azure: a federated identity or a service principal; else the machine's managed identity.
const AZURE_IDENTITY: [&str; 5] = [
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_CLIENT_SECRET",
    "AZURE_AUTHORITY_HOST",
];

/// A store whose listing can be asked for page by page.
pub(crate) trait ListedStore: ObjectStore + PaginatedListStore {}

impl<T: ObjectStore + PaginatedListStore> ListedStore for T {}

/// The clients of one bucket.
pub(crate) struct BucketClients {
    pub(crate) location: BucketLocation,
    /// For reads and listings of records.
    pub(crate) reads: Arc<dyn ListedStore>,
    /// For writes of records: never repeats one.
    pub(crate) writes: Arc<dyn ObjectStore>,
    /// For removals of records: never repeats one.
    pub(crate) removal: ConditionalRemoval,
    pub(crate) data: Arc<dyn ObjectStore>,
    pub(crate) signer: Arc<dyn Signer>,
}

impl BucketClients {
    /// Makes the clients; nothing is sent yet.
    pub(crate) fn new(options: &BucketOptions) -> Result<Self, BucketError> {
        let client = client_options(options)?;
        let for_records = client.clone().with_timeout(STORE_REQUEST_TIMEOUT);
        let for_data = client
            .with_timeout_disabled()
            .with_read_timeout(STORE_SILENCE_TIMEOUT);
        let result = match options.location.kind {
            BucketKind::S3 => s3_clients(options, &for_records, &for_data),
            BucketKind::Azure => azure_clients(options, &for_records, &for_data),
        };
        result.map_err(|source| BucketError::Options {
            location: options.location.clone(),
            source,
        })
    }
}

fn client_options(options: &BucketOptions) -> Result<ClientOptions, BucketError> {
    let mut client = ClientOptions::new()
        .with_allow_http(options.allow_http)
        .with_connect_timeout(STORE_CONNECT_TIMEOUT);
    let Some(path) = &options.authorities else {
        return Ok(client);
    };
    let unusable = |source| BucketError::Authorities {
        path: path.clone(),
        source,
    };
    let pem = std::fs::read(path).map_err(|error| unusable(error.into()))?;
    let certificates =
        Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.into()))?;
    if certificates.is_empty() {
        return Err(unusable("it holds no certificate".into()));
    }
    client = client.with_no_system_certificates(true);
    for certificate in certificates {
        client = client.with_root_certificate(certificate);
    }
    Ok(client)
}

fn repeating() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(3),
            base: 2.0,
        },
        max_retries: REPEATS_MAXIMUM,
        retry_timeout: STORE_REPEAT_TIMEOUT,
    }
}

fn once() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..repeating()
    }
}

fn s3_clients(
    options: &BucketOptions,
    for_records: &ClientOptions,
    for_data: &ClientOptions,
) -> object_store::Result<BucketClients> {
    let build = |client: &ClientOptions, retry| {
        s3_builder(options)
            .with_client_options(client.clone())
            .with_retry(retry)
            .build()
            .map(Arc::new)
    };
    let writes: Arc<AmazonS3> = build(for_records, once())?;
    let data: Arc<AmazonS3> = build(for_data, repeating())?;
    let http = ReqwestConnector::default().connect(for_records)?;
    Ok(BucketClients {
        location: options.location.clone(),
        reads: build(for_records, repeating())?,
        removal: ConditionalRemoval::s3(http, Arc::clone(&writes)),
        writes,
        signer: Arc::clone(&data) as Arc<dyn Signer>,
        data,
    })
}

/// What the environment says under these names, and nothing else of it.
fn environment<K: FromStr>(names: &'static [&str]) -> impl Iterator<Item = (K, String)> {
    names.iter().filter_map(|name| {
        let key = name.to_ascii_lowercase().parse().ok()?;
        Some((key, std::env::var(name).ok()?))
    })
}

fn s3_builder(options: &BucketOptions) -> AmazonS3Builder {
    let mut builder = match &options.credentials {
        BucketCredentials::Platform => environment(&S3_IDENTITY)
            .fold(AmazonS3Builder::new(), |builder, (key, value)| {
                builder.with_config(key, value)
            }),
        BucketCredentials::Key {
            id,
            secret,
            session_token,
        } => {
            let builder = AmazonS3Builder::new()
                .with_access_key_id(id)
                .with_secret_access_key(secret.expose());
            match session_token {
                Some(token) => builder.with_token(token.expose()),
                None => builder,
            }
        }
    };
    let bucket = &options.location.bucket;
    let is_virtual_hosted = options.virtual_hosted.unwrap_or(options.endpoint.is_none());
    builder = builder
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(is_virtual_hosted)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One object is removed at a time, and not every server knows the other way.
        .with_disable_bulk_delete(true);
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    match &options.endpoint {
        Some(endpoint) if is_virtual_hosted => {
            builder.with_endpoint(endpoint.replacen("://", &format!("://{bucket}."), 1))
        }
        Some(endpoint) => builder.with_endpoint(endpoint),
        None => builder,
    }
}

fn azure_clients(
    options: &BucketOptions,
    for_records: &ClientOptions,
    for_data: &ClientOptions,
) -> object_store::Result<BucketClients> {
    let build = |client: &ClientOptions, retry| {
        azure_builder(options)
            .with_client_options(client.clone())
            .with_retry(retry)
            .build()
            .map(Arc::new)
    };
    let writes: Arc<MicrosoftAzure> = build(for_records, once())?;
    let data: Arc<MicrosoftAzure> = build(for_data, repeating())?;
    let http = ReqwestConnector::default().connect(for_records)?;
    Ok(BucketClients {
        location: options.location.clone(),
        reads: build(for_records, repeating())?,
        removal: ConditionalRemoval::azure(http, &writes, options)?,
        writes,
        signer: Arc::clone(&data) as Arc<dyn Signer>,
        data,
    })
}

fn azure_builder(options: &BucketOptions) -> MicrosoftAzureBuilder {
    let mut builder = match &options.credentials {
        BucketCredentials::Platform => environment(&AZURE_IDENTITY)
            .fold(MicrosoftAzureBuilder::new(), |builder, (key, value)| {
                builder.with_config(key, value)
            }),
        BucketCredentials::Key { secret, .. } => {
            MicrosoftAzureBuilder::new().with_access_key(secret.expose())
        }
    };
    builder = builder.with_container_name(&options.location.bucket);
    if let Some(account) = &options.account {
        builder = builder.with_account(account);
    }
    match &options.endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint.trim_end_matches('/').to_owned()),
        None => builder,
    }
}

#[cfg(test)]
mod tests {
    use object_store::aws::AmazonS3ConfigKey;
    use object_store::azure::AzureConfigKey;

    use super::*;

    #[test]
    fn every_variable_of_an_identity_is_one_that_the_library_knows() {
        for name in S3_IDENTITY {
            let name = name.to_ascii_lowercase();
            assert!(name.parse::<AmazonS3ConfigKey>().is_ok(), "{name}");
        }
        for name in AZURE_IDENTITY {
            let name = name.to_ascii_lowercase();
            assert!(name.parse::<AzureConfigKey>().is_ok(), "{name}");
        }
    }
}
