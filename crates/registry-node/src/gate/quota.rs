//! Whether a registry has room for what is pushed to it.
//!
//! Decided when a push begins and ends, by how much the registry stores as nodes count it: what ends at the same moment, or at other nodes
//! within [`crate::limits::USAGE_INTERVAL`], is let in by the same sum, and so much more may be stored. What an unfinished upload brought
//! does not count until it ends.

use actix_web::{
    HttpRequest,
    http::{StatusCode, header},
};
use config_documents::Registry;
use serde_json::json;
use uuid::Uuid;

use super::Gate;
use crate::{
    names::RepositoryName,
    oci::{ErrorCode, OciError, RepositoryRoute, Route},
};

/// What brings bytes.
enum Push<'a> {
    /// All of it in this request.
    Whole,
    /// To an upload that may hold some already.
    ToUpload {
        repository: &'a RepositoryName,
        upload: Uuid,
        ends: bool,
    },
}

impl<'a> Push<'a> {
    fn of(route: &'a Route) -> Option<Self> {
        let Route::Repository(repository, route) = route else {
            return None;
        };
        let to_upload = |upload: &Uuid, ends| Self::ToUpload {
            repository,
            upload: *upload,
            ends,
        };
        match route {
            // A mount brings none; where it cannot be made, an upload begins, which is asked about when it goes on.
            RepositoryRoute::StartUpload {
                mount: Some(_),
                whole: None,
                ..
            } => None,
            RepositoryRoute::PutManifest(_) | RepositoryRoute::StartUpload { .. } => {
                Some(Self::Whole)
            }
            RepositoryRoute::AppendToUpload(upload) => Some(to_upload(upload, false)),
            RepositoryRoute::FinishUpload(upload, _) => Some(to_upload(upload, true)),
            _ => None,
        }
    }
}

impl Gate {
    /// Refuses a push for which the registry has no room. An upload that would end beyond it is dropped.
    pub(super) async fn check_quota(
        &self,
        registry: &Registry,
        route: &Route,
        request: &HttpRequest,
    ) -> Result<(), OciError> {
        let (Some(quota), Some(push)) = (registry.quota_bytes, Push::of(route)) else {
            return Ok(());
        };
        let stored = self.content.stored_bytes(registry.uid).await?;
        let announced = announced_bytes(request);
        let coming = match &push {
            Push::Whole => announced,
            Push::ToUpload {
                repository, upload, ..
            } => {
                let repository = self.content.repository(registry.uid, repository);
                // One that is not there is refused as such.
                let Ok(upload) = repository.upload(*upload).await else {
                    return Ok(());
                };
                announced.saturating_add(upload.offset)
            }
        };
        if stored < quota && stored.saturating_add(coming) <= quota {
            return Ok(());
        }
        if let Push::ToUpload {
            repository,
            upload,
            ends: true,
        } = push
        {
            let repository = self.content.repository(registry.uid, repository);
            if let Err(error) = repository.cancel_upload(upload).await {
                tracing::debug!(upload.id = %upload, %error, "an upload beyond the quota was not dropped");
            }
        }
        Err(no_room(registry, stored, coming, quota))
    }
}

/// What a request says of its body's length; one that does not say it is measured when the upload ends.
fn announced_bytes(request: &HttpRequest) -> u64 {
    let value = request.headers().get(header::CONTENT_LENGTH);
    value
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// 403, after which clients do not try again.
fn no_room(registry: &Registry, stored: u64, coming: u64, quota: u64) -> OciError {
    let coming_too = match coming {
        0 => String::new(),
        bytes => format!(", and {bytes} more were to come"),
    };
    OciError::new(
        StatusCode::FORBIDDEN,
        ErrorCode::Denied,
        format!(
            "the registry {} is full: it stores {stored} bytes of the {quota} that it may{coming_too}; delete what is not needed, which \
             counts after the next collection, or ask for a higher limit",
            registry.name
        ),
    )
    .with_detail(json!({"storedBytes": stored, "quotaBytes": quota}))
}
