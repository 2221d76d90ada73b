//! Heads of requests and answers on their way through a node: what concerns one connection only stays behind (RFC 9110, 7.6.1).

use actix_web::{HttpRequest, HttpResponse, body::MessageBody, http::StatusCode};
use hyper::{
    Request,
    header::{HeaderName, HeaderValue},
    http::{request, response},
};
use uuid::Uuid;

use super::mark::{self, FORWARDED};

/// What concerns one connection only, and what only the server of that connection may answer (`expect`).
const OF_ONE_CONNECTION: [&str; 11] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Says the id that the forwarding node gave a request, for the logs of both.
const REQUEST_ID: &str = "x-ms-correlation-request-id";

/// The id that a request had at the node that forwarded it, as it says.
pub(in crate::gate) fn id_before(request: &HttpRequest) -> Option<Uuid> {
    let text = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    mark::of(request).and_then(|_| Uuid::try_parse(text).ok())
}

/// Whether a header travels on. `named` are the values of `Connection`, which name more that does not.
fn travels<'a>(name: &str, mut named: impl Iterator<Item = &'a [u8]>) -> bool {
    !OF_ONE_CONNECTION.contains(&name)
        && !named.any(|value| {
            value
                .split(|byte| *byte == b',')
                .any(|named| named.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        })
}

/// The head of a request for the next node, which is asked for the same host. `None` for what no request can hold.
pub(super) fn request(
    request: &HttpRequest,
    host: &str,
    mark: &str,
    id: Uuid,
) -> Option<request::Parts> {
    let path = match request.uri().path_and_query() {
        Some(path) => path.as_str(),
        None => "/",
    };
    let (mut head, ()) = Request::builder()
        .method(request.method().as_str())
        .uri(path)
        .body(())
        .ok()?
        .into_parts();
    let connection = || {
        let values = request.headers().get_all("connection");
        values.map(actix_web::http::header::HeaderValue::as_bytes)
    };
    for (name, value) in request.headers() {
        let name = name.as_str();
        if matches!(name, "host" | REQUEST_ID) || !travels(name, connection()) {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let mut value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        value.set_sensitive(name == "authorization");
        head.headers.append(name, value);
    }
    head.headers
        .insert("host", HeaderValue::from_str(host).ok()?);
    let mut mark = HeaderValue::from_str(mark).ok()?;
    mark.set_sensitive(true);
    head.headers
        .insert(HeaderName::from_static(FORWARDED), mark);
    let id = HeaderValue::from_str(&id.to_string()).ok()?;
    head.headers.insert(HeaderName::from_static(REQUEST_ID), id);
    Some(head)
}

/// The answer for the client.
pub(super) fn answer<B: MessageBody + 'static>(head: &response::Parts, body: B) -> HttpResponse {
    let status = StatusCode::from_u16(head.status.as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(status);
    let connection = || {
        let values = head.headers.get_all("connection");
        values.iter().map(HeaderValue::as_bytes)
    };
    for (name, value) in &head.headers {
        let name = name.as_str();
        // The server says the length of a body by itself.
        if name != "content-length" && travels(name, connection()) {
            response.append_header((name, value.as_bytes()));
        }
    }
    let mut response = response
        .message_body(body)
        .expect("every header was that of an answer already");
    response.head_mut().no_chunking(false);
    response.map_into_boxed_body()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn what_concerns_one_connection_stays_behind_and_everything_else_travels() {
        let asked = TestRequest::with_uri("/v2/a%2Fb/?n=1&last=%20")
            .insert_header(("host", "CONTOSO.example:443"))
            .append_header(("connection", "keep-alive, X-Own"))
            .insert_header(("x-own", "1"))
            .insert_header(("transfer-encoding", "chunked"))
            .insert_header(("expect", "100-continue"))
            .insert_header(("te", "trailers"))
            .insert_header(("authorization", "Bearer x"))
            .append_header(("accept", "a"))
            .append_header(("accept", "b"))
            .to_http_request();
        let head = request(&asked, "contoso.example", "m", Uuid::nil()).expect("a head");
        assert_eq!(head.uri, "/v2/a%2Fb/?n=1&last=%20");
        let mut names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "authorization", "host", REQUEST_ID, FORWARDED]
        );
        assert_eq!(head.headers["host"], "contoso.example");
        assert_eq!(head.headers.get_all("accept").iter().count(), 2);
        assert!(head.headers["authorization"].is_sensitive());
    }
}
