//! Time, bytes, and how many at once.

use std::convert::Infallible;

use futures_util::stream;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::registry::{Registry, challenge, ok, raw};
use super::*;

#[track_caller]
fn too_long(result: Result<Vec<Document>, ResolveError>) {
    let error = result.unwrap_err();
    assert!(
        matches!(
            &error,
            ResolveError::Exchange {
                source: ExchangeError::TooLong { limit: MAX_DOCUMENT },
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_document_has_a_longest_length() {
    let mut long = MANIFEST.as_bytes().to_vec();
    long.resize(MAX_DOCUMENT, b' ');
    let served = long.clone();
    let registry = Registry::start(move |_| ok(served.clone())).await;
    let documents = resolve(&anonymous(), registry.address, &digest_of(&long), PATIENT).await;
    assert_eq!(documents.unwrap()[0].bytes.len(), MAX_DOCUMENT);
    long.push(b' ');
    let served = long.clone();
    let registry = Registry::start(move |_| ok(served.clone())).await;
    too_long(resolve(&anonymous(), registry.address, &digest_of(&long), PATIENT).await);
}

#[tokio::test]
async fn a_body_without_an_end_is_left() {
    let registry = Registry::start(|_| {
        let frames = stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(vec![b' '; 64 << 10].into())));
        Some(Response::new(StreamBody::new(frames).boxed()))
    })
    .await;
    too_long(manifest(&anonymous(), registry.address).await);
}

/// Reads the request's first bytes, then goes on with what follows.
async fn heard(stream: &mut TcpStream) {
    let mut bytes = [0; 1024];
    let _some = stream.read(&mut bytes).await;
}

async fn is_late(address: SocketAddr) {
    let started = Instant::now();
    let error = resolve(&anonymous(), address, &digest_of(MANIFEST), SHORT)
        .await
        .unwrap_err();
    assert!(matches!(error, ResolveError::Late), "{error:?}");
    assert!(started.elapsed() >= SHORT && started.elapsed() < PATIENT / 4);
}

#[tokio::test]
async fn who_hangs_is_left_at_the_deadline() {
    // Accepts, and says nothing.
    let silent = Registry::start(|_| None).await;
    is_late(silent.address).await;
    // One header line after the other, and never the last.
    let (slow_head, _task) = raw(async |mut stream| {
        heard(&mut stream).await;
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    })
    .await;
    is_late(slow_head).await;
    // A body that drips.
    let (slow_body, _task) = raw(async |mut stream| {
        heard(&mut stream).await;
        let _gone = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            .await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    })
    .await;
    is_late(slow_body).await;
    // A token service that says nothing.
    let no_token = Registry::start(|seen| {
        if seen.path.starts_with("/token") {
            None
        } else {
            challenge(&format!("Bearer realm=\"http://{}/token\"", seen.host))
        }
    })
    .await;
    is_late(no_token.address).await;
    assert_eq!(no_token.seen().len(), 2);
}

#[tokio::test]
async fn what_is_no_http_or_too_much_of_it_is_left() {
    let (no_http, _task) = raw(async |mut stream| {
        let _gone = stream.write_all(b"SSH-2.0-x\r\n").await;
    })
    .await;
    let (short, _task) = raw(async |mut stream| {
        heard(&mut stream).await;
        let _gone = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{}")
            .await;
    })
    .await;
    let (many_headers, _task) = raw(async |mut stream| {
        heard(&mut stream).await;
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"x: y\r\n").await.is_ok() {}
    })
    .await;
    let (long_header, _task) = raw(async |mut stream| {
        heard(&mut stream).await;
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await;
        while stream.write_all(&[b'y'; 4096]).await.is_ok() {}
    })
    .await;
    for address in [no_http, short, many_headers, long_header] {
        let error = manifest(&anonymous(), address).await.unwrap_err();
        assert!(
            matches!(
                &error,
                ResolveError::Exchange {
                    source: ExchangeError::Http(_),
                    ..
                }
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn only_so_many_at_once() {
    let registry = Registry::start(|_| None).await;
    let (resolver, address) = (anonymous(), registry.address);
    let mut under_way = JoinSet::new();
    for _ in 0..MAX_RESOLVES {
        let resolver = resolver.clone();
        under_way.spawn(async move { manifest(&resolver, address).await.map(drop) });
    }
    while registry.seen().len() < MAX_RESOLVES {
        tokio::task::yield_now().await;
    }
    let error = manifest(&resolver, address).await.unwrap_err();
    assert!(matches!(error, ResolveError::Busy), "{error:?}");
    assert_eq!(registry.seen().len(), MAX_RESOLVES);
    // Whoever gives up makes room.
    under_way.shutdown().await;
    is_late_by(&resolver, address).await;
}

async fn is_late_by(resolver: &Resolver, address: SocketAddr) {
    let error = resolve(resolver, address, &digest_of(MANIFEST), SHORT)
        .await
        .unwrap_err();
    assert!(matches!(error, ResolveError::Late), "{error:?}");
}
