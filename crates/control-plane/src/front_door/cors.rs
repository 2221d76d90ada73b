//! Cross-origin requests from pages, for the origins that the operator allows and no others.

use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};

/// The origin of a request, when the operator allows it.
pub(crate) fn allowed_origin(allowed: &[String], http: &HttpRequest) -> Option<HeaderValue> {
    let origin = http.headers().get("origin")?;
    let text = origin.to_str().ok()?;
    allowed
        .iter()
        .any(|allowed| allowed.eq_ignore_ascii_case(text))
        .then(|| origin.clone())
}

/// The answer to a preflight; `None` when the request is not one.
pub(crate) fn preflight(http: &HttpRequest) -> Option<HttpResponse> {
    (http.method() == Method::OPTIONS && http.headers().contains_key("access-control-request-method")).then(|| {
        HttpResponse::NoContent()
            .insert_header(("Access-Control-Allow-Methods", "GET, HEAD, PUT, POST, PATCH, DELETE"))
            .insert_header((
                "Access-Control-Allow-Headers",
                "authorization, content-type, if-match, if-none-match, x-ms-client-request-id, x-ms-correlation-request-id, x-ms-return-client-request-id",
            ))
            .insert_header(("Access-Control-Max-Age", "600"))
            .finish()
    })
}

/// Lets the page of that origin read the answer.
pub(crate) fn expose(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(
        HeaderName::from_static("access-control-allow-origin"),
        origin,
    );
    headers.append(
        HeaderName::from_static("vary"),
        HeaderValue::from_static("Origin"),
    );
    headers.insert(
        HeaderName::from_static("access-control-expose-headers"),
        HeaderValue::from_static(
            "etag, location, retry-after, www-authenticate, x-ms-request-id, x-ms-correlation-request-id, x-wharfinger-propagation, x-wharfinger-revision, x-wharfinger-missing",
        ),
    );
}
