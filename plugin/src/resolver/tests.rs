//! The resolver against registries on loopback: honest ones, and ones that want its time, memory or credentials.

mod authorisation;
mod bounds;
mod redirects;
mod registry;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256, Sha512};
use tempfile::TempDir;

use super::*;
use registry::{Registry, ok, status};

/// For resolves that should be over at once.
const PATIENT: Duration = Duration::from_secs(60);

/// For resolves that hang.
const SHORT: Duration = Duration::from_millis(200);

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;

fn digest_of(bytes: impl AsRef<[u8]>) -> Digest {
    Digest::parse(&format!("sha256:{}", hex::encode(Sha256::digest(bytes)))).unwrap()
}

fn reference(address: SocketAddr) -> Reference {
    Reference::parse(&format!("{address}/team/app:1")).unwrap()
}

fn anonymous() -> Resolver {
    Resolver::new(ResolverSettings::default()).unwrap()
}

/// A resolver that knows `user:secret-word` for the registry, by docker's file.
fn knowing(address: SocketAddr) -> (Resolver, TempDir) {
    configured(&format!(r#"{{"auths":{{"{address}":{{"auth":"{AUTH}"}}}}}}"#))
}

/// Base64 of `user:secret-word`.
const AUTH: &str = "dXNlcjpzZWNyZXQtd29yZA==";

fn configured(docker_config: &str) -> (Resolver, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, docker_config).unwrap();
    let settings = ResolverSettings::new(Some(path), &[]);
    (Resolver::new(settings).unwrap(), dir)
}

async fn resolve(
    resolver: &Resolver,
    address: SocketAddr,
    digest: &Digest,
    patience: Duration,
) -> Result<Vec<Document>, ResolveError> {
    resolver
        .resolve(&reference(address), digest, Instant::now() + patience)
        .await
}

/// The manifest of the honest registry, asked for in the usual way.
async fn manifest(resolver: &Resolver, address: SocketAddr) -> Result<Vec<Document>, ResolveError> {
    let documents = resolve(resolver, address, &digest_of(MANIFEST), PATIENT).await;
    if let Err(error) = &documents {
        let shown = format!("{error:?} {error}");
        assert!(!shown.contains("secret") && !shown.contains("dXNl"), "{shown}");
    }
    documents
}

fn manifest_path(digest: &Digest) -> String {
    format!("/v2/team/app/manifests/{digest}")
}

#[tokio::test]
async fn a_manifest_is_fetched_by_its_digest() {
    let registry = Registry::start(|_| ok(MANIFEST)).await;
    let documents = manifest(&anonymous(), registry.address).await.unwrap();
    let expected = Document {
        digest: digest_of(MANIFEST),
        bytes: MANIFEST.into(),
    };
    assert_eq!(documents, [expected]);
    let seen = registry.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, manifest_path(&digest_of(MANIFEST)));
    assert_eq!(seen[0].host, registry.address.to_string());
    assert_eq!(seen[0].authorization, None);
}

#[tokio::test]
async fn of_an_index_what_this_node_pulls_is_fetched_too() {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let (child, foreign) = (digest_of(MANIFEST), digest_of("foreign"));
    let index = format!(
        r#"{{"manifests":[{{"digest":"{foreign}","platform":{{"os":"windows","architecture":"{architecture}"}}}},
        {{"digest":"{child}","platform":{{"os":"linux","architecture":"{architecture}"}}}}]}}"#
    );
    let top = digest_of(&index);
    let (served, path) = (index.clone(), manifest_path(&top));
    let registry = Registry::start(move |seen| {
        if seen.path == path {
            ok(served.clone())
        } else {
            ok(MANIFEST)
        }
    })
    .await;
    let documents = resolve(&anonymous(), registry.address, &top, PATIENT)
        .await
        .unwrap();
    let digests: Vec<&Digest> = documents.iter().map(|document| &document.digest).collect();
    assert_eq!(digests, [&top, &child]);
    assert_eq!(documents[0].bytes, index.as_bytes());
    assert_eq!(registry.paths(), [manifest_path(&top), manifest_path(&child)]);
}

#[tokio::test]
async fn an_index_without_an_entry_for_this_node_is_an_error() {
    let index = r#"{"manifests":[{"digest":"sha256:00","platform":{"os":"plan9","architecture":"mips"}}]}"#;
    let registry = Registry::start(move |_| ok(index)).await;
    let error = resolve(&anonymous(), registry.address, &digest_of(index), PATIENT)
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            ResolveError::Entry {
                source: EntryError::Nothing { .. },
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn other_bytes_are_refused_whatever_the_registry_says() {
    let registry = Registry::start(|_| ok(format!("{MANIFEST} "))).await;
    let error = manifest(&anonymous(), registry.address).await.unwrap_err();
    assert!(matches!(error, ResolveError::OtherBytes { .. }), "{error:?}");
}

#[tokio::test]
async fn digests_of_containerd_s_algorithms_are_checked() {
    let registry = Registry::start(|_| ok(MANIFEST)).await;
    let sha512 = format!("sha512:{}", hex::encode(Sha512::digest(MANIFEST)));
    let digest = Digest::parse(&sha512).unwrap();
    let documents = resolve(&anonymous(), registry.address, &digest, PATIENT).await;
    assert_eq!(documents.unwrap().len(), 1);
    let digest = Digest::parse(&sha512.replace("sha512", "blake3")).unwrap();
    let error = resolve(&anonymous(), registry.address, &digest, PATIENT)
        .await
        .unwrap_err();
    assert!(matches!(error, ResolveError::Algorithm { .. }), "{error:?}");
}

#[tokio::test]
async fn a_registry_that_has_it_not_or_is_not_there() {
    let registry = Registry::start(|_| Some(status(404))).await;
    let error = manifest(&anonymous(), registry.address).await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Status { status: 404, .. }),
        "{error:?}"
    );
    let address = registry.address;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    assert_ne!(free, address);
    let error = manifest(&anonymous(), free).await.unwrap_err();
    assert!(
        matches!(
            &error,
            ResolveError::Exchange {
                source: ExchangeError::Connect { .. },
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn tls_needs_a_known_authority() {
    let (registry, authority) = Registry::start_tls(|_| ok(MANIFEST)).await;
    let settings = |authorities: &[&Path]| ResolverSettings {
        schemes: [(registry.address.to_string(), Scheme::Https)].into(),
        authorities: authorities.iter().map(|path| path.to_path_buf()).collect(),
        ..ResolverSettings::default()
    };
    let trusting = Resolver::new(settings(&[authority.path()])).unwrap();
    assert_eq!(manifest(&trusting, registry.address).await.unwrap().len(), 1);
    let error = manifest(&Resolver::new(settings(&[])).unwrap(), registry.address)
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            ResolveError::Exchange {
                source: ExchangeError::Tls(_) | ExchangeError::NoAuthorities,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(registry.seen().len(), 1);
}

#[test]
fn a_host_is_asked_in_clear_where_the_settings_say_so() {
    let scheme = |insecure: &[String]| {
        let settings = ResolverSettings::new(None, insecure);
        let target = target::Target::registry("registry.example:5000", &settings.schemes);
        target.unwrap().scheme
    };
    assert_eq!(scheme(&[]), Scheme::Https);
    assert_eq!(scheme(&["registry.example:5000".to_owned()]), Scheme::Http);
}

#[test]
fn settings_that_name_what_is_not_there_are_refused() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in [empty.path(), Path::new("/no/such/file")] {
        let authorities = ResolverSettings {
            authorities: vec![path.to_owned()],
            ..ResolverSettings::default()
        };
        assert!(matches!(Resolver::new(authorities), Err(ResolverError::Trust(_))));
        let docker = ResolverSettings {
            docker_config: Some(path.to_owned()),
            ..ResolverSettings::default()
        };
        assert!(matches!(
            Resolver::new(docker),
            Err(ResolverError::Credentials(_))
        ));
    }
}
