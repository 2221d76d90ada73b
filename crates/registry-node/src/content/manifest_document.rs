//! What a registry needs to know of a manifest, read leniently: the bytes are kept as they came, and fields that this node
//! has no use for are nobody's business. Formats that are known are held to what they promise.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::limits::{MANIFEST_REFERENCES_MAXIMUM, MEDIA_TYPE_BYTES_MAXIMUM};
use crate::names::{Digest, shown};

/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of Docker's image manifest, version 2, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of Docker's manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Why a manifest is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    /// It is not a JSON object, or a field of a known format has another shape.
    #[error("the manifest is not valid: {0}")]
    Malformed(String),
    /// Docker's signed manifests, which no client of this decade makes.
    #[error(
        "Docker image manifests of schema 1 are not taken: push with a client that makes schema 2 or OCI manifests"
    )]
    SchemaOne,
    /// Request and manifest disagree about what it is.
    #[error("Content-Type is {declared} and the manifest's mediaType is {inside}")]
    OtherMediaType {
        /// From the request.
        declared: String,
        /// From the manifest.
        inside: String,
    },
    /// Nobody says what it is.
    #[error("neither Content-Type nor the manifest's mediaType says what the manifest is")]
    NoMediaType,
    /// It could be read as an image by one client and as an index by another.
    #[error(
        "the manifest has both \"manifests\" and \"{0}\": it is an index or an image, not both"
    )]
    Ambiguous(&'static str),
    /// It refers to more than is allowed.
    #[error(
        "the manifest refers to {count} blobs and manifests; {MANIFEST_REFERENCES_MAXIMUM} are allowed"
    )]
    TooManyReferences {
        /// How many.
        count: usize,
    },
}

/// What was read of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestDocument {
    pub(crate) media_type: String,
    /// Blobs that the repository must have.
    pub(crate) blobs: Vec<Digest>,
    /// Blobs that it may have: layers that are fetched from elsewhere, unless somebody pushed them all the same.
    pub(crate) foreign_blobs: Vec<Digest>,
    /// Manifests that the repository must have.
    pub(crate) manifests: Vec<Digest>,
    pub(crate) subject: Option<Digest>,
    /// What kind of artifact it is, for listings of referrers.
    pub(crate) artifact_type: Option<String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "schemaVersion")]
    schema_version: Option<&'a RawValue>,
    #[serde(borrow, rename = "mediaType")]
    media_type: Option<&'a RawValue>,
    #[serde(borrow)]
    config: Option<&'a RawValue>,
    #[serde(borrow)]
    layers: Option<&'a RawValue>,
    #[serde(borrow)]
    blobs: Option<&'a RawValue>,
    #[serde(borrow)]
    manifests: Option<&'a RawValue>,
    #[serde(borrow)]
    subject: Option<&'a RawValue>,
    #[serde(borrow, rename = "artifactType")]
    artifact_type: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
    #[serde(borrow, rename = "fsLayers")]
    fs_layers: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    #[serde(default, rename = "mediaType")]
    media_type: Option<String>,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Descriptor {
    /// Layers that are fetched from elsewhere need not be here.
    fn is_foreign(&self) -> bool {
        let is_foreign_type = self.media_type.as_deref().is_some_and(|media_type| {
            media_type.contains(".nondistributable.")
                || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
        });
        is_foreign_type || self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }
}

/// Reads a manifest. `declared` is the request's Content-Type, if there is one.
pub(crate) fn read_manifest(
    bytes: &[u8],
    declared: Option<&str>,
) -> Result<ManifestDocument, ManifestFault> {
    let declared = declared.map(media_type_of_header).transpose()?;
    if declared.as_deref().is_some_and(is_schema_one) {
        return Err(ManifestFault::SchemaOne);
    }
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(ManifestFault::Malformed(
            "it is not a JSON object".to_owned(),
        ));
    }
    let fields: Fields<'_> = serde_json::from_slice(bytes)
        .map_err(|error| ManifestFault::Malformed(error.to_string()))?;
    let inside: Option<String> = strictly("mediaType", fields.media_type)?;
    let schema_version = fields.schema_version.map(RawValue::get);
    let has_members_of_schema_one = schema_version == Some("1") && fields.fs_layers.is_some();
    if has_members_of_schema_one || inside.as_deref().is_some_and(is_schema_one) {
        return Err(ManifestFault::SchemaOne);
    }
    let media_type = agreed_media_type(declared, inside, &fields)?;
    check_one_meaning(&fields)?;

    let is_type = |known: &str| media_type.eq_ignore_ascii_case(known);
    let is_known = [
        OCI_MANIFEST,
        OCI_INDEX,
        DOCKER_MANIFEST,
        DOCKER_MANIFEST_LIST,
    ]
    .into_iter()
    .any(is_type);
    if is_known && schema_version != Some("2") {
        return Err(ManifestFault::Malformed(format!(
            "schemaVersion must be 2 in a {media_type}"
        )));
    }
    let config: Option<Descriptor> = field(is_known, "config", fields.config)?;
    let layers: Option<Vec<Descriptor>> = field(is_known, "layers", fields.layers)?;
    let blobs: Option<Vec<Descriptor>> = field(is_known, "blobs", fields.blobs)?;
    let manifests: Option<Vec<Descriptor>> = field(is_known, "manifests", fields.manifests)?;
    for (holder, name, is_there) in [
        (OCI_MANIFEST, "config", config.is_some()),
        (DOCKER_MANIFEST, "config", config.is_some()),
        (OCI_INDEX, "manifests", manifests.is_some()),
        (DOCKER_MANIFEST_LIST, "manifests", manifests.is_some()),
    ] {
        if is_type(holder) && !is_there {
            return Err(ManifestFault::Malformed(format!(
                "a {media_type} must have the member {name}"
            )));
        }
    }
    let subject: Option<Descriptor> = field(is_known, "subject", fields.subject)?;
    let artifact_type: Option<String> = field(is_known, "artifactType", fields.artifact_type)?;
    let annotations: Option<BTreeMap<String, String>> =
        field(is_known, "annotations", fields.annotations)?;

    let config_media_type = config.as_ref().and_then(|config| config.media_type.clone());
    let blobs = layers
        .into_iter()
        .flatten()
        .chain(blobs.into_iter().flatten());
    let (foreign, blobs): (Vec<Descriptor>, Vec<Descriptor>) = config
        .into_iter()
        .chain(blobs)
        .partition(Descriptor::is_foreign);
    let blobs = distinct(blobs.into_iter());
    let foreign_blobs = distinct(foreign.into_iter());
    let manifests = distinct(manifests.into_iter().flatten());
    let count = blobs.len() + foreign_blobs.len() + manifests.len();
    if count > MANIFEST_REFERENCES_MAXIMUM {
        return Err(ManifestFault::TooManyReferences { count });
    }
    Ok(ManifestDocument {
        media_type,
        blobs,
        foreign_blobs,
        manifests,
        subject: subject.map(|descriptor| descriptor.digest),
        artifact_type: artifact_type
            .filter(|artifact_type| !artifact_type.is_empty())
            .or(config_media_type),
        annotations: annotations.unwrap_or_default(),
    })
}

fn is_schema_one(media_type: &str) -> bool {
    media_type
        .to_ascii_lowercase()
        .starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// The media type of a Content-Type header: without parameters, and otherwise as it came, because it is sent back so.
fn media_type_of_header(header: &str) -> Result<String, ManifestFault> {
    let media_type = header.split(';').next().unwrap_or_default().trim();
    checked_media_type(media_type)?;
    Ok(media_type.to_owned())
}

fn checked_media_type(media_type: &str) -> Result<(), ManifestFault> {
    let is_restricted_name = |half: &str| {
        !half.is_empty()
            && half
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let is_right = media_type.len() <= MEDIA_TYPE_BYTES_MAXIMUM
        && media_type
            .split_once('/')
            .is_some_and(|(kind, name)| is_restricted_name(kind) && is_restricted_name(name));
    if is_right {
        return Ok(());
    }
    Err(ManifestFault::Malformed(format!(
        "{} is not a media type: it is type/subtype of at most {MEDIA_TYPE_BYTES_MAXIMUM} characters",
        shown(media_type)
    )))
}

fn agreed_media_type(
    declared: Option<String>,
    inside: Option<String>,
    fields: &Fields<'_>,
) -> Result<String, ManifestFault> {
    match (declared, inside.filter(|inside| !inside.is_empty())) {
        (Some(declared), Some(inside)) if declared.eq_ignore_ascii_case(&inside) => Ok(inside),
        // Clients that do not set a type leave these; the manifest knows better.
        (Some(declared), Some(inside))
            if ["application/json", "application/octet-stream"]
                .contains(&declared.to_ascii_lowercase().as_str()) =>
        {
            checked_media_type(&inside)?;
            Ok(inside)
        }
        (Some(declared), Some(inside)) => Err(ManifestFault::OtherMediaType {
            declared: shown(&declared),
            inside: shown(&inside),
        }),
        (Some(declared), None) => Ok(declared),
        (None, Some(inside)) => {
            checked_media_type(&inside)?;
            Ok(inside)
        }
        (None, None) if fields.manifests.is_some() => Ok(OCI_INDEX.to_owned()),
        (None, None) if fields.config.is_some() && fields.layers.is_some() => {
            Ok(OCI_MANIFEST.to_owned())
        }
        (None, None) => Err(ManifestFault::NoMediaType),
    }
}

fn check_one_meaning(fields: &Fields<'_>) -> Result<(), ManifestFault> {
    if fields.manifests.is_none() {
        return Ok(());
    }
    if fields.layers.is_some() {
        return Err(ManifestFault::Ambiguous("layers"));
    }
    if fields.config.is_some() {
        return Err(ManifestFault::Ambiguous("config"));
    }
    Ok(())
}

/// A field: of a known format it must have its shape; of an unknown one, another shape only means that it is something else.
fn field<T: DeserializeOwned>(
    is_known: bool,
    name: &str,
    raw: Option<&RawValue>,
) -> Result<Option<T>, ManifestFault> {
    if is_known {
        return strictly(name, raw);
    }
    Ok(strictly(name, raw).unwrap_or_default())
}

fn strictly<T: DeserializeOwned>(
    name: &str,
    raw: Option<&RawValue>,
) -> Result<Option<T>, ManifestFault> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    serde_json::from_str(raw.get())
        .map_err(|error| ManifestFault::Malformed(format!("{name}: {error}")))
}

fn distinct(descriptors: impl Iterator<Item = Descriptor>) -> Vec<Digest> {
    let mut seen = HashSet::new();
    descriptors
        .map(|descriptor| descriptor.digest)
        .filter(|digest| seen.insert(digest.clone()))
        .collect()
}
