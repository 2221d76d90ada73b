//! What callers change of a registry's content, for whoever asks later: a line in the log for each push, each deletion and each change of attributes, and counters of
//! those and of the attempts that were refused. Uploads of blobs are no changes that anybody sees before a manifest is pushed.

use actix_web::{HttpRequest, HttpResponse};

use super::{Gate, authentication::shown_user, caller::Caller, login::CredentialId};
use crate::{
    acr,
    config::RegistryEntry,
    names::{Reference, RepositoryName},
    oci::{ErrorCode, OciError, RepositoryRoute, Route},
};

/// A change of content that is asked for.
pub(super) struct ContentChange {
    kind: &'static str,
    repository: RepositoryName,
    /// A tag or a digest; nothing where it is about the repository.
    reference: Option<String>,
}

impl ContentChange {
    /// `None` for what changes nothing that counts.
    pub(super) fn of(route: &Route) -> Option<Self> {
        let Route::Repository(repository, route) = route else {
            return None;
        };
        let (kind, reference) = match route {
            RepositoryRoute::PutManifest(reference) => ("push", reference.to_string()),
            RepositoryRoute::DeleteManifest(reference @ Reference::Tag(_)) => {
                ("delete-tag", reference.to_string())
            }
            RepositoryRoute::DeleteManifest(reference @ Reference::Digest(_)) => {
                ("delete-manifest", reference.to_string())
            }
            RepositoryRoute::DeleteBlob(digest) => ("delete-blob", digest.to_string()),
            _ => return None,
        };
        Some(Self {
            kind,
            repository: repository.clone(),
            reference: Some(reference),
        })
    }

    /// The same of an operation of `/acr/v1`.
    pub(super) fn of_acr(route: &acr::Route) -> Option<Self> {
        let acr::Route::Repository(repository, route) = route else {
            return None;
        };
        let (kind, reference) = match route {
            acr::RepositoryRoute::Update => ("change-attributes", None),
            acr::RepositoryRoute::Delete => ("delete-repository", None),
            acr::RepositoryRoute::UpdateTag(tag) => ("change-attributes", Some(tag.to_string())),
            acr::RepositoryRoute::DeleteTag(tag) => ("delete-tag", Some(tag.to_string())),
            acr::RepositoryRoute::UpdateManifest(digest) => {
                ("change-attributes", Some(digest.to_string()))
            }
            acr::RepositoryRoute::Read
            | acr::RepositoryRoute::ListTags { .. }
            | acr::RepositoryRoute::ReadTag(_)
            | acr::RepositoryRoute::ListManifests(_)
            | acr::RepositoryRoute::ReadManifest(_) => return None,
        };
        Some(Self {
            kind,
            repository: repository.clone(),
            reference,
        })
    }
}

impl Gate {
    /// Counts and logs what became of a change; `caller` is whoever was let in.
    pub(super) fn note_change(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
        change: &ContentChange,
        caller: Option<&Caller>,
        result: &Result<HttpResponse, OciError>,
    ) {
        let outcome = match result {
            Ok(response) if response.status().is_success() => "done",
            Ok(_) => "failed",
            Err(error) if matches!(error.code, ErrorCode::Denied | ErrorCode::Unauthorized) => {
                "denied"
            }
            Err(_) => "failed",
        };
        self.metrics.content_change(change.kind, outcome);
        // What a stranger is refused is counted, but must not fill the disk; what somebody known is denied is logged where it is.
        let (Some(caller), "done" | "failed") = (caller, outcome) else {
            return;
        };
        let digest = result.as_ref().ok().and_then(|response| {
            let digest = response.headers().get("docker-content-digest")?;
            digest.to_str().ok()
        });
        let (object_id, key_id) = match caller.origin.credential {
            CredentialId::Admin { .. } | CredentialId::Anonymous => (None, None),
            CredentialId::Principal { object_id, key_id } => (Some(object_id), Some(key_id)),
        };
        tracing::info!(
            content.change = change.kind,
            content.outcome = outcome,
            registry = %entry.registry.name,
            repository = %change.repository,
            reference = change.reference.as_deref(),
            digest,
            caller = %shown_user(&caller.name),
            caller.object_id = object_id.map(tracing::field::display),
            caller.key_id = key_id.map(tracing::field::display),
            peer = %self.client_address(request, &entry.registry.login_server),
            "{} of {}/{}: {outcome}",
            change.kind,
            entry.registry.name,
            change.repository
        );
    }
}
