//! What a request asks of a registry, by whichever of its two interfaces.

use actix_web::{HttpRequest, HttpResponse, http::Method, web::Payload};

use super::{Gate, caller::Caller, content_changes::ContentChange};
use crate::{
    acr,
    config::RegistryEntry,
    metrics,
    oci::{self, OciError, RequiredAccess},
};

/// An operation that was understood.
pub(super) enum Operation {
    Oci(oci::Route),
    Acr(acr::Route),
}

impl Operation {
    /// Understands a request line.
    pub(super) fn parse(method: &Method, path: &str, query: &str) -> Result<Self, OciError> {
        match arm::split_path(path).next() {
            Some("acr") => acr::Route::parse(method, path, query).map(Self::Acr),
            _ => oci::Route::parse(method, path, query).map(Self::Oci),
        }
    }

    /// The rights it takes.
    pub(super) fn required_access(&self) -> Vec<RequiredAccess> {
        match self {
            Self::Oci(route) => route.required_access(),
            Self::Acr(route) => route.required_access(),
        }
    }

    /// Its name in metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Oci(route) => metrics::operation_of(route),
            Self::Acr(route) => metrics::operation_of_acr(route),
        }
    }

    /// What it changes of content, if anything that counts.
    pub(super) fn change(&self) -> Option<ContentChange> {
        match self {
            Self::Oci(route) => ContentChange::of(route),
            Self::Acr(route) => ContentChange::of_acr(route),
        }
    }
}

impl Gate {
    /// Carries out an operation that the caller has the rights for.
    pub(super) async fn carry_out(
        &self,
        operation: Operation,
        entry: &RegistryEntry,
        caller: &Caller,
        request: &HttpRequest,
        payload: Payload,
    ) -> Result<HttpResponse, OciError> {
        let (content, uid) = (&self.content, entry.registry.uid);
        match operation {
            Operation::Oci(route) => {
                oci::serve(content, uid, caller, route, request, payload).await
            }
            Operation::Acr(route) => {
                let registry = acr::Registry {
                    content,
                    uid,
                    login_server: &entry.registry.login_server,
                };
                acr::serve(registry, caller, route, payload).await
            }
        }
    }
}
