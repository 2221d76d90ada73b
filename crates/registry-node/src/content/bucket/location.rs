//! Which bucket, as an operator names it. Pure.

use std::fmt;
use std::str::FromStr;

/// Longest prefix below which a region's content may lie, in bytes: with the longest key of the layout it stays below the
/// 1,024 that both kinds of store allow.
const PREFIX_BYTES_MAXIMUM: usize = 300;

/// The kinds of store that there are. Azure's word for a bucket is container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketKind {
    /// S3, and what speaks its protocol.
    S3,
    /// Azure Blob Storage.
    Azure,
}

impl BucketKind {
    fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "azure",
        }
    }
}

/// A bucket and the prefix in it below which a region's content lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketLocation {
    /// What kind of store it is in.
    pub kind: BucketKind,
    /// The bucket's, or container's, name.
    pub bucket: String,
    /// Components separated by `/`; may be empty.
    pub prefix: String,
}

impl BucketLocation {
    /// The location `component` below this one.
    ///
    /// # Errors
    /// When `component` cannot be part of a prefix.
    pub fn below(&self, component: &str) -> Result<Self, BucketLocationError> {
        format!("{}/{component}", self.to_string().trim_end_matches('/')).parse()
    }
}

impl fmt::Display for BucketLocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.kind.scheme(), self.bucket)?;
        if !self.prefix.is_empty() {
            write!(formatter, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

/// Why a text names no bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BucketLocationError {
    /// It names another kind of store, or none.
    #[error("it is s3://BUCKET[/PREFIX] or azure://CONTAINER[/PREFIX]")]
    OtherScheme,
    /// It names a store that nobody has tried.
    #[error(
        "Google Cloud Storage is not supported: it was never held against the start-up probe; there are s3:// and azure://"
    )]
    GoogleCloudStorage,
    /// The bucket's name breaks the store's rules.
    #[error(
        "a bucket's or container's name is 3 to 63 lower-case letters, digits, hyphens and, for S3, dots, and begins and ends with \
         a letter or digit"
    )]
    Bucket,
    /// The prefix breaks ours.
    #[error(
        "a prefix is at most {PREFIX_BYTES_MAXIMUM} bytes of components separated by '/'; each is letters, digits, '.', '_' and \
         '-', and begins and ends with a letter or digit"
    )]
    Prefix,
}

impl FromStr for BucketLocation {
    type Err = BucketLocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or(BucketLocationError::OtherScheme)?;
        let kind = match scheme {
            "s3" => BucketKind::S3,
            "azure" => BucketKind::Azure,
            "gs" | "gcs" => return Err(BucketLocationError::GoogleCloudStorage),
            _ => return Err(BucketLocationError::OtherScheme),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_bucket_byte = |byte: u8| {
            byte.is_ascii_lowercase()
                || byte.is_ascii_digit()
                || byte == b'-'
                || (byte == b'.' && kind == BucketKind::S3)
        };
        if !(3..=63).contains(&bucket.len())
            || !bucket.bytes().all(is_bucket_byte)
            || !has_plain_ends(bucket)
        {
            return Err(BucketLocationError::Bucket);
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_component = |component: &str| {
            has_plain_ends(component)
                && component
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let is_prefix = prefix.is_empty()
            || (prefix.len() <= PREFIX_BYTES_MAXIMUM && prefix.split('/').all(is_component));
        if !is_prefix {
            return Err(BucketLocationError::Prefix);
        }
        Ok(Self {
            kind,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

fn has_plain_ends(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_location_is_scheme_bucket_and_prefix() {
        let location: BucketLocation = "s3://registry.example/a/b_c-1/".parse().expect("S3");
        assert_eq!(location.kind, BucketKind::S3);
        assert_eq!(location.bucket, "registry.example");
        assert_eq!(location.prefix, "a/b_c-1");
        assert_eq!(location.to_string(), "s3://registry.example/a/b_c-1");
        let location: BucketLocation = "azure://registry".parse().expect("Azure");
        assert_eq!(location.kind, BucketKind::Azure);
        assert_eq!(location.prefix, "");
        let below = location.below("westus").expect("a component");
        assert_eq!(below.to_string(), "azure://registry/westus");
    }

    #[test]
    fn what_names_no_bucket_is_refused_by_the_rule_that_it_breaks() {
        use BucketLocationError as Fault;
        for (text, fault) in [
            ("/srv/registry", Fault::OtherScheme),
            ("https://bucket", Fault::OtherScheme),
            ("gs://bucket/x", Fault::GoogleCloudStorage),
            ("s3://", Fault::Bucket),
            ("s3://ab", Fault::Bucket),
            ("s3://Bucket", Fault::Bucket),
            ("s3://-bucket", Fault::Bucket),
            ("azure://con.tainer", Fault::Bucket),
            ("s3://bucket/a//b", Fault::Prefix),
            ("s3://bucket/..", Fault::Prefix),
            ("s3://bucket/_probe", Fault::Prefix),
            ("s3://bucket/a b", Fault::Prefix),
        ] {
            assert_eq!(text.parse::<BucketLocation>(), Err(fault), "{text}");
        }
        let long = format!("s3://bucket/{}", "a".repeat(PREFIX_BYTES_MAXIMUM + 1));
        assert_eq!(long.parse::<BucketLocation>(), Err(Fault::Prefix));
    }

    proptest! {
        #[test]
        fn a_location_is_read_as_it_is_shown(text in "(s3|azure|gs)://[a-zA-Z0-9./_-]{0,20}") {
            if let Ok(location) = text.parse::<BucketLocation>() {
                prop_assert_eq!(location.to_string().parse(), Ok(location.clone()));
                prop_assert!(text.starts_with(&location.to_string()));
            }
        }
    }
}
