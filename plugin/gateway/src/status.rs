//! Answers of the gateway's own: a gRPC status without a message, as a server sends it that refuses a call.
//!
//! Source: gRPC over HTTP2, "Trailers-Only" and "Percent-Encoded" (grpc/doc/PROTOCOL-HTTP2.md).

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use magi_node_api::gateway::{Refusal, RefusalKind};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::upstream::Body;

const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// `RESOURCE_EXHAUSTED`.
const EXHAUSTED: u16 = 8;
/// `FAILED_PRECONDITION`.
const PRECONDITION: u16 = 9;
/// `UNAVAILABLE`.
const UNAVAILABLE: u16 = 14;

/// What magi-node wants the caller to hear.
pub(crate) fn refusal(refusal: &Refusal) -> Response<Body> {
    let code = match refusal.kind {
        RefusalKind::Exhausted => EXHAUSTED,
        RefusalKind::Denied => PRECONDITION,
    };
    answer(code, &refusal.text)
}

/// What a client hears that cannot reach containerd itself.
pub(crate) fn unavailable(why: &str) -> Response<Body> {
    answer(UNAVAILABLE, why)
}

fn answer(code: u16, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    let text = utf8_percent_encode(text, ESCAPED).to_string();
    if let Ok(text) = HeaderValue::from_str(&text) {
        headers.insert("grpc-message", text);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_escaped_as_grpc_wants_it() {
        let said = answer(8, "100 % \u{e4}\n");
        assert_eq!(said.headers()["grpc-message"], "100 %25 %C3%A4%0A");
        assert_eq!(said.headers()["grpc-status"], "8");
        assert!(hyper::body::Body::is_end_stream(said.body()));
    }
}
