//! The body of a change of attributes.

use actix_web::http::StatusCode;
use actix_web::web::Payload;

use super::Operation;
use crate::content::AttributeChange;
use crate::limits::ATTRIBUTES_BYTES_MAXIMUM;
use crate::oci::body::read_body;
use crate::oci::{ErrorCode, OciError, RepositoryAction};

/// Reads which attributes are to be changed. Members of other names say nothing here.
pub(super) async fn read_change(
    operation: &Operation<'_>,
    payload: Payload,
) -> Result<AttributeChange, OciError> {
    let is_still_allowed = || {
        operation
            .caller
            .may(operation.name, RepositoryAction::MetadataWrite)
    };
    let body = read_body(payload, ATTRIBUTES_BYTES_MAXIMUM, is_still_allowed).await?;
    serde_json::from_slice(&body).map_err(|error| {
        OciError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::Unsupported,
            format!(
                "the body is not an object with any of deleteEnabled, writeEnabled, readEnabled and listEnabled, each true or false: {error}"
            ),
        )
    })
}
