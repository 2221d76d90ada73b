//! Where a region's content is, on the command line: of a node, and of every command that works on content.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use credentials::Secret;
use service::configuration::{ConfigurationError, read_secret};

use crate::content::bucket::{BucketCredentials, BucketKind, BucketLocation, BucketOptions};
use crate::content::{Content, OpenError, OpenOptions, Sources};

/// A region's content: in a directory or in a bucket.
#[derive(Clone, clap::Args)]
pub struct ContentArguments {
    /// Directory of the region's content, on a disk of this host
    #[arg(
        long,
        value_name = "DIRECTORY",
        required_unless_present = "content_store",
        // Each by name: what requires something that conflicts with what is there is not held to it.
        conflicts_with_all = [
            "content_store",
            "content_store_endpoint",
            "content_store_allow_http",
            "content_store_ca",
            "content_store_addressing",
            "content_store_key_file",
            "redirect_downloads",
        ]
    )]
    pub content_dir: Option<PathBuf>,
    /// The content directory is used by no other node, so it may be on a network file system
    #[arg(long, requires = "content_dir", conflicts_with = "content_store")]
    pub single_node: bool,
    /// The content is in a bucket
    #[command(flatten)]
    pub bucket: BucketArguments,
}

/// A bucket, and how it is reached.
#[derive(Clone, clap::Args)]
pub struct BucketArguments {
    /// Bucket of the region's content, s3://BUCKET[/PREFIX] or azure://CONTAINER[/PREFIX]; it must exist
    #[arg(long, value_name = "URL")]
    pub content_store: Option<BucketLocation>,
    /// URL of the store's service, without the bucket (default: the cloud's own)
    #[arg(long, value_name = "URL", requires = "content_store")]
    pub content_store_endpoint: Option<String>,
    /// The store's endpoint may be plain HTTP also where it is not this host
    #[arg(long, requires = "content_store")]
    pub content_store_allow_http: bool,
    /// Certificates of the authorities that vouch for the store, PEM (default: those of the system)
    #[arg(long, value_name = "FILE", requires = "content_store")]
    pub content_store_ca: Option<PathBuf>,
    /// S3: region of the bucket (default: us-east-1, which servers other than Amazon's mostly take)
    #[arg(long, value_name = "REGION", env = "AWS_REGION")]
    pub content_store_region: Option<String>,
    /// S3: whether the bucket is named in the path or in the host (default: in the host at Amazon, in the path elsewhere)
    #[arg(long, value_enum, value_name = "WHERE", requires = "content_store")]
    pub content_store_addressing: Option<Addressing>,
    /// Azure: name of the storage account
    #[arg(long, value_name = "NAME", env = "AZURE_STORAGE_ACCOUNT_NAME")]
    pub content_store_account: Option<String>,
    /// S3: id of the access key
    #[arg(long, value_name = "ID", env = "AWS_ACCESS_KEY_ID")]
    pub content_store_key_id: Option<String>,
    /// File with the secret access key (S3) or the account key (Azure); without it AWS_SECRET_ACCESS_KEY or
    /// AZURE_STORAGE_ACCOUNT_KEY, or else the identity that the platform gives to the process
    #[arg(long, value_name = "FILE", requires = "content_store")]
    pub content_store_key_file: Option<PathBuf>,
    /// Answer downloads of blobs with a redirect to a signed URL of the store, which clients must reach
    #[arg(long, requires = "content_store")]
    pub redirect_downloads: bool,
}

/// Where a request to an S3 server names the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Addressing {
    /// https://endpoint/bucket/key
    Path,
    /// https://bucket.endpoint/key
    VirtualHosted,
}

/// Why there is no content to work on.
#[derive(Debug, thiserror::Error)]
pub enum ContentArgumentsError {
    /// A flag cannot be used.
    #[error("--{name} '{value}' cannot be used: {rule}")]
    Argument {
        /// The flag.
        name: &'static str,
        /// What was given.
        value: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] ConfigurationError),
    /// The content cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl ContentArguments {
    /// Opens the content.
    ///
    /// # Errors
    /// See [`ContentArgumentsError`].
    pub async fn open(
        &self,
        region: &str,
        sources: Sources,
    ) -> Result<Content, ContentArgumentsError> {
        if let Some(location) = &self.bucket.content_store {
            let options = self.bucket.options(location)?;
            let content = Content::open_bucket(&options, region, sources).await?;
            return match self.bucket.redirect_downloads {
                true => Ok(content.redirecting_downloads().await?),
                false => Ok(content),
            };
        }
        let directory = self.directory()?;
        let options = OpenOptions {
            region: region.to_owned(),
            single_node: self.single_node,
        };
        Ok(Content::open(directory, options, sources).await?)
    }

    /// Opens the content that is there, of whatever region, for a command that makes none.
    ///
    /// # Errors
    /// See [`ContentArgumentsError`].
    pub async fn open_existing(&self, sources: Sources) -> Result<Content, ContentArgumentsError> {
        if let Some(location) = &self.bucket.content_store {
            let options = self.bucket.options(location)?;
            return Ok(Content::open_existing_bucket(&options, sources).await?);
        }
        let directory = self.directory()?;
        Ok(Content::open_existing(directory, self.single_node, sources).await?)
    }

    fn directory(&self) -> Result<&Path, ContentArgumentsError> {
        self.content_dir
            .as_deref()
            .ok_or(ContentArgumentsError::Argument {
                name: "content-dir",
                value: String::new(),
                rule: "a directory or a --content-store is needed",
            })
    }

    /// Where the content is, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        match (&self.bucket.content_store, &self.content_dir) {
            (Some(location), _) => location.to_string(),
            (None, Some(directory)) => directory.display().to_string(),
            (None, None) => "nowhere".to_owned(),
        }
    }
}

impl BucketArguments {
    /// The flags that say the same to another command, for another location.
    #[must_use]
    pub fn for_location(&self, location: &BucketLocation) -> Vec<OsString> {
        let mut flags: Vec<OsString> = vec!["--content-store".into(), location.to_string().into()];
        let addressing = self
            .content_store_addressing
            .map(|where_named| match where_named {
                Addressing::Path => "path".to_owned(),
                Addressing::VirtualHosted => "virtual-hosted".to_owned(),
            });
        let texts = [
            ("--content-store-endpoint", &self.content_store_endpoint),
            ("--content-store-region", &self.content_store_region),
            ("--content-store-addressing", &addressing),
            ("--content-store-account", &self.content_store_account),
            ("--content-store-key-id", &self.content_store_key_id),
        ];
        for (flag, value) in texts {
            if let Some(value) = value {
                flags.extend([flag.into(), value.into()]);
            }
        }
        let files = [
            ("--content-store-ca", &self.content_store_ca),
            ("--content-store-key-file", &self.content_store_key_file),
        ];
        for (flag, file) in files {
            if let Some(file) = file {
                flags.extend([flag.into(), file.into()]);
            }
        }
        let switches = [
            ("--content-store-allow-http", self.content_store_allow_http),
            ("--redirect-downloads", self.redirect_downloads),
        ];
        for (flag, is_set) in switches {
            if is_set {
                flags.push(flag.into());
            }
        }
        flags
    }

    /// How the bucket at `location` is reached.
    ///
    /// # Errors
    /// When a flag cannot be used, or the secret cannot be read.
    pub fn options(
        &self,
        location: &BucketLocation,
    ) -> Result<BucketOptions, ContentArgumentsError> {
        let is_loopback = match &self.content_store_endpoint {
            Some(endpoint) => check_endpoint(endpoint, self.content_store_allow_http)?,
            None => false,
        };
        if location.kind == BucketKind::Azure && self.content_store_account.is_none() {
            return Err(ContentArgumentsError::Argument {
                name: "content-store",
                value: location.to_string(),
                rule: "a container needs its storage account's name; give it with --content-store-account",
            });
        }
        Ok(BucketOptions {
            location: location.clone(),
            endpoint: self.content_store_endpoint.clone(),
            allow_http: self.content_store_allow_http || is_loopback,
            authorities: self.content_store_ca.clone(),
            region: self.content_store_region.clone(),
            virtual_hosted: self
                .content_store_addressing
                .map(|addressing| addressing == Addressing::VirtualHosted),
            account: self.content_store_account.clone(),
            credentials: self.credentials(location)?,
        })
    }

    fn credentials(
        &self,
        location: &BucketLocation,
    ) -> Result<BucketCredentials, ContentArgumentsError> {
        let variable = match location.kind {
            BucketKind::S3 => "AWS_SECRET_ACCESS_KEY",
            BucketKind::Azure => "AZURE_STORAGE_ACCOUNT_KEY",
        };
        let secret = read_secret(
            "content-store-key",
            std::env::var(variable).ok().as_deref(),
            self.content_store_key_file.as_deref(),
        )?;
        let refuse = |rule| {
            Err(ContentArgumentsError::Argument {
                name: "content-store",
                value: location.to_string(),
                rule,
            })
        };
        match (location.kind, &self.content_store_key_id, secret) {
            (BucketKind::S3, Some(id), Some(secret)) => Ok(BucketCredentials::Key {
                id: id.clone(),
                secret: Secret::new(secret),
                session_token: std::env::var("AWS_SESSION_TOKEN").ok().map(Secret::new),
            }),
            (BucketKind::S3, Some(_), None) => refuse(
                "there is the id of an access key without the key; give it with --content-store-key-file or AWS_SECRET_ACCESS_KEY",
            ),
            (BucketKind::S3, None, Some(_)) => refuse(
                "there is an access key without its id; give it with --content-store-key-id or AWS_ACCESS_KEY_ID",
            ),
            (BucketKind::Azure, _, Some(secret)) => Ok(BucketCredentials::Key {
                id: String::new(),
                secret: Secret::new(secret),
                session_token: None,
            }),
            (_, _, None) => Ok(BucketCredentials::Platform),
        }
    }
}

/// Says whether the endpoint is this host.
fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<bool, ContentArgumentsError> {
    let refuse = |rule| {
        Err(ContentArgumentsError::Argument {
            name: "content-store-endpoint",
            value: endpoint.to_owned(),
            rule,
        })
    };
    let Ok(url) = reqwest::Url::parse(endpoint) else {
        return refuse("it is a URL, https://HOST[:PORT]");
    };
    let is_loopback = match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback()),
        None => return refuse("it names no host"),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("it has no user and no password; give keys by file or environment");
    }
    match url.scheme() {
        "https" => Ok(is_loopback),
        "http" if is_loopback || allow_http => Ok(is_loopback),
        "http" => refuse(
            "over plain HTTP others read content and change it; --content-store-allow-http allows it",
        ),
        _ => refuse("it begins with https://"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        content: ContentArguments,
    }

    fn parse(flags: &[&str]) -> Result<ContentArguments, clap::Error> {
        let arguments = std::iter::once("node").chain(flags.iter().copied());
        CommandLine::try_parse_from(arguments).map(|line| line.content)
    }

    fn options(flags: &[&str]) -> Result<BucketOptions, ContentArgumentsError> {
        let content = parse(flags).expect("a command line");
        let location = content.bucket.content_store.clone().expect("a bucket");
        content.bucket.options(&location)
    }

    #[test]
    fn content_is_in_a_directory_or_in_a_bucket() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--content-dir", "d", "--content-store", "s3://bucket"]).is_err());
        assert!(parse(&["--content-dir", "d", "--redirect-downloads"]).is_err());
        assert!(parse(&["--content-store", "s3://bucket", "--single-node"]).is_err());
        assert!(parse(&["--content-dir", "d", "--single-node"]).is_ok());
        let refused = parse(&["--content-store", "gs://bucket"]).err();
        let refused = refused.expect("not supported").to_string();
        assert!(
            refused.contains("Google Cloud Storage is not supported"),
            "{refused}"
        );
    }

    #[test]
    fn plain_http_is_for_this_host_or_asked_for() {
        let with = |endpoint, more: &[&str]| {
            let flags = [
                "--content-store",
                "s3://bucket",
                "--content-store-endpoint",
                endpoint,
            ];
            options(&[&flags, more].concat()).map(|options| options.allow_http)
        };
        assert!(matches!(with("https://s3.example", &[]), Ok(false)));
        for here in [
            "http://localhost:9000",
            "http://127.0.0.1",
            "http://[::1]:9000",
        ] {
            assert!(matches!(with(here, &[]), Ok(true)), "{here}");
        }
        let elsewhere = with("http://s3.example", &[]).expect_err("plain HTTP");
        assert!(
            elsewhere.to_string().contains("--content-store-allow-http"),
            "{elsewhere}"
        );
        assert!(matches!(
            with("http://s3.example", &["--content-store-allow-http"]),
            Ok(true)
        ));
        for no_endpoint in [
            "s3.example",
            "ftp://s3.example",
            "https://user:key@s3.example",
        ] {
            assert!(with(no_endpoint, &[]).is_err(), "{no_endpoint}");
        }
    }

    #[test]
    fn a_container_needs_an_account() {
        let refused = options(&["--content-store", "azure://registry"]).err();
        let refused = refused.expect("no account").to_string();
        assert!(refused.contains("--content-store-account"), "{refused}");
    }

    #[test]
    fn flags_are_passed_on_as_they_were_given() {
        let flags = [
            "--content-store",
            "s3://bucket/a",
            "--content-store-endpoint",
            "http://localhost:9000",
            "--content-store-region",
            "eu-1",
            "--content-store-addressing",
            "virtual-hosted",
            "--content-store-account",
            "account",
            "--content-store-key-id",
            "id",
            "--content-store-ca",
            "ca.pem",
            "--content-store-key-file",
            "key",
            "--content-store-allow-http",
            "--redirect-downloads",
        ];
        let content = parse(&flags).expect("a command line");
        let location = content.bucket.content_store.clone().expect("a bucket");
        let passed = content.bucket.for_location(&location);
        assert_eq!(passed, flags.map(OsString::from));
    }
}
