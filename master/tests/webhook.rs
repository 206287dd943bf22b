//! The audit webhook over real TLS on the loopback: the recorded bodies of an API server, and clients that mean no good.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may stop at the first surprise"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use magi_master::intake::audit::{Kind, Reader};
use magi_master::intake::webhook::{Access, Counts, Events, MAX_BODY, MAX_QUEUE, Token, Webhook};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const TOKEN: &str = "0123456789abcdef-a-token";

/// An authority, and leaves of it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

type Leaf = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn leaf(&self) -> Leaf {
        self.leaf_until(4000)
    }

    /// One that is over when this year begins.
    fn leaf_until(&self, year: i32) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![leaf.der().clone()], key)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A running endpoint.
struct Endpoint {
    address: SocketAddr,
    authority: Authority,
    counts: Arc<Counts>,
    events: mpsc::Receiver<Events>,
}

impl Endpoint {
    async fn start() -> Self {
        let authority = Authority::new();
        let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (chain, key) = authority.leaf();
        let tls = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let token = Some(Token::new(TOKEN).unwrap());
        let (webhook, events) = Webhook::new(Access { token });
        let counts = webhook.counts();
        let (_, tls) = watch::channel(Arc::new(tls));
        tokio::spawn(webhook.serve(listener, tls));
        Self {
            address,
            authority,
            counts,
            events,
        }
    }

    async fn connect(&self, leaf: Option<Leaf>) -> std::io::Result<TlsStream<TcpStream>> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.authority.roots());
        let config = match leaf {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Posts a body with the token; the answer's head.
    async fn post(&self, body: &[u8]) -> String {
        let mut stream = self.connect(None).await.unwrap();
        let head = head(&format!(
            "Authorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n",
            body.len()
        ));
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        // The last records may wait in the session's own buffer otherwise.
        stream.flush().await.unwrap();
        answer(&mut stream).await
    }

    fn next(&mut self) -> Vec<Vec<u8>> {
        let events = self
            .events
            .try_recv()
            .expect("something is queued before 200 is said");
        events.iter().map(<[u8]>::to_vec).collect()
    }
}

fn head(more: &str) -> String {
    format!("POST /audit?timeout=30s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{more}\r\n")
}

/// The head of an answer; empty if the connection ended before one came.
async fn answer(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    while !text.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(read) => text.extend_from_slice(&piece[..read]),
        }
    }
    String::from_utf8(text).unwrap()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

fn recording(part: &str) -> Vec<u8> {
    let file = format!("tests/fixtures/audit/webhook-{part}.json.zst");
    let packed = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    zstd::decode_all(&packed[..]).unwrap()
}

#[tokio::test]
async fn recorded_bodies_are_taken_event_by_event() {
    let mut endpoint = Endpoint::start().await;
    let mut reader = Reader::default();
    let mut changes = Vec::new();
    let mut number = 0;
    for part in ["00495", "00496", "00497", "00498"] {
        let body = recording(part);
        assert_eq!(status(&endpoint.post(&body).await), "200");
        let list: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let events = endpoint.next();
        let parsed: Vec<serde_json::Value> = events
            .iter()
            .map(|event| serde_json::from_slice(event).unwrap())
            .collect();
        assert_eq!(&parsed, list["items"].as_array().unwrap());
        number += events.len() as u64;
        for event in events {
            reader.item(&event, &mut changes);
        }
    }
    assert_eq!(endpoint.counts.events.load(Ordering::Relaxed), number);
    assert_eq!(endpoint.counts.taken.load(Ordering::Relaxed), 4);
    assert_eq!(reader.counts().kinds[&Kind::Deleted], 2);
    assert_eq!(reader.counts().items, number);
    assert!(reader.counts().unusable.is_empty(), "{:?}", reader.counts());
}

#[tokio::test]
async fn only_a_certificate_or_the_token_lets_in() {
    let mut endpoint = Endpoint::start().await;
    let body = br#"{"kind":"EventList","items":[{}]}"#;
    let length = format!("Content-Length: {}\r\n", body.len());
    let cases = [
        (None, "", "401"),
        (None, "Authorization: Bearer 0123456789abcdef-a-tokeN\r\n", "401"),
        (None, "Authorization: Basic 0123456789abcdef-a-token\r\n", "401"),
        (None, "Authorization: Bearer\r\n", "401"),
        (None, "Authorization: bearer 0123456789abcdef-a-token\r\n", "200"),
        (Some(endpoint.authority.leaf()), "", "200"),
    ];
    for (leaf, header, expected) in cases {
        let mut stream = endpoint.connect(leaf).await.unwrap();
        stream
            .write_all(head(&format!("{header}{length}")).as_bytes())
            .await
            .unwrap();
        stream.write_all(body).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(status(&answer(&mut stream).await), expected, "{header}");
        assert_eq!(endpoint.events.try_recv().is_ok(), expected == "200", "{header}");
    }
    assert_eq!(endpoint.counts.unauthorized.load(Ordering::Relaxed), 4);

    // A certificate of somebody else's authority, or one that is over, does not even get to speak.
    for bad in [Authority::new().leaf(), endpoint.authority.leaf_until(2001)] {
        if let Ok(mut stream) = endpoint.connect(Some(bad)).await {
            let _refused = stream.write_all(head(&length).as_bytes()).await;
            assert_eq!(answer(&mut stream).await, "");
        }
    }
    // Nor does who speaks no TLS.
    let mut plain = TcpStream::connect(endpoint.address).await.unwrap();
    plain.write_all(head(&length).as_bytes()).await.unwrap();
    assert!(!answer(&mut plain).await.starts_with("HTTP/1.1 200"));
    assert_eq!(endpoint.counts.no_handshake.load(Ordering::Relaxed), 3);
    assert!(endpoint.events.try_recv().is_err());
}

#[tokio::test]
async fn a_full_queue_sends_away_at_once_and_takes_again_when_it_is_not() {
    let mut endpoint = Endpoint::start().await;
    let body = br#"{"kind":"EventList","items":[{"a":1}]}"#;
    for _ in 0..MAX_QUEUE {
        assert_eq!(status(&endpoint.post(body).await), "200");
    }
    let begun = Instant::now();
    let full = endpoint.post(body).await;
    assert_eq!(status(&full), "429");
    assert!(full.to_ascii_lowercase().contains("retry-after: 1"), "{full}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "the API server was kept waiting"
    );
    assert_eq!(endpoint.counts.full.load(Ordering::Relaxed), 1);
    endpoint.next();
    assert_eq!(status(&endpoint.post(body).await), "200");
}

#[tokio::test]
async fn a_body_larger_than_the_queue_gets_in_as_room_is_made() {
    let mut endpoint = Endpoint::start().await;
    let event = format!("{{\"a\":\"{}\"}}", "x".repeat(30_000));
    let events = vec![event; 1000];
    let body = format!("{{\"items\":[{}]}}", events.join(","));
    assert!(body.len() > (MAX_QUEUE + 4) << 20);
    let mut queue = std::mem::replace(&mut endpoint.events, mpsc::channel(1).1);
    let reader = tokio::spawn(async move {
        let mut count = 0;
        while count < 1000 {
            count += queue.recv().await.expect("more").iter().count();
        }
        (count, queue)
    });
    assert_eq!(status(&endpoint.post(body.as_bytes()).await), "200");
    assert_eq!(reader.await.unwrap().0, 1000);
}

#[tokio::test]
async fn broken_bodies_are_refused() {
    let endpoint = Endpoint::start().await;
    for body in ["", "x", "{}", "[{}]", r#"{"items":[{}"#, r#"{"items":{}}"#] {
        assert_eq!(status(&endpoint.post(body.as_bytes()).await), "400", "{body}");
    }
    let mut stream = endpoint.connect(None).await.unwrap();
    let get = format!("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(status(&answer(&mut stream).await), "405");
    // One that breaks off in its middle.
    let mut stream = endpoint.connect(None).await.unwrap();
    let start = head(&format!(
        "Authorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n"
    ));
    stream.write_all(start.as_bytes()).await.unwrap();
    stream.write_all(br#"{"items":["#).await.unwrap();
    stream.flush().await.unwrap();
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(20);
    while endpoint.counts.broken.load(Ordering::Relaxed) < 7 {
        assert!(Instant::now() < deadline, "{:?}", endpoint.counts);
        tokio::task::yield_now().await;
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_body_of_a_gibibyte_is_refused_while_it_comes_in() {
    let endpoint = Endpoint::start().await;
    // By its declared length: at once.
    let mut stream = endpoint.connect(None).await.unwrap();
    let declared = head(&format!(
        "Authorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n",
        1u64 << 30
    ));
    stream.write_all(declared.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(status(&answer(&mut stream).await), "413");

    // By what comes: one endless event, in chunks of a megabyte.
    let before = resident();
    let stream = endpoint.connect(None).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let chunked = head(&format!(
        "Authorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n"
    ));
    to.write_all(chunked.as_bytes()).await.unwrap();
    to.write_all(b"a\r\n{\"items\":[\r\n").await.unwrap();
    to.write_all(b"6\r\n{\"a\":\"\r\n").await.unwrap();
    let mut chunk = b"100000\r\n".to_vec();
    chunk.extend_from_slice(&vec![b'x'; 1 << 20]);
    chunk.extend_from_slice(b"\r\n");
    let writer = tokio::spawn(async move {
        let mut sent = 0u64;
        while sent < 1 << 30 && to.write_all(&chunk).await.is_ok() {
            sent += 1 << 20;
        }
        (sent, to)
    });
    assert_eq!(status(&answer(&mut from).await), "413");
    let grown = resident().saturating_sub(before);
    drop(from);
    let (sent, _to) = writer.await.unwrap();
    assert!(sent < 2 * MAX_BODY, "{sent} bytes were taken");
    assert!(grown < 160 << 20, "grew by {grown} bytes");
    assert_eq!(endpoint.counts.too_large.load(Ordering::Relaxed), 2);
}
