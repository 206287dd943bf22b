//! Passwords and tokens: who gets them, and what becomes of a token service with other plans.

use super::registry::{Registry, Seen, challenge, ok, status};
use super::*;

fn basic() -> Option<String> {
    Some(format!("Basic {AUTH}"))
}

fn bearer(token: &str) -> Option<String> {
    Some(format!("Bearer {token}"))
}

/// A registry that wants a token of its own service, which answers like this.
async fn with_tokens(
    service: impl Fn(&Seen) -> Option<http::Response<registry::Body>> + Send + Sync + 'static,
) -> Registry {
    Registry::start(move |seen| {
        if seen.path.starts_with("/token") {
            service(seen)
        } else if seen.authorization == bearer("good") {
            ok(MANIFEST)
        } else {
            challenge(&format!(
                r#"Bearer realm="http://{}/token?own=1",service="a b&c",scope="repository:team/app:pull,push""#,
                seen.host
            ))
        }
    })
    .await
}

#[tokio::test]
async fn a_password_is_given_to_who_asks_for_it() {
    let registry = Registry::start(|seen| match &seen.authorization {
        Some(_) => ok(MANIFEST),
        None => challenge(r#"Basic realm="x""#),
    })
    .await;
    let (resolver, _dir) = knowing(registry.address);
    assert_eq!(manifest(&resolver, registry.address).await.unwrap().len(), 1);
    let told: Vec<_> = registry
        .seen()
        .into_iter()
        .map(|seen| seen.authorization)
        .collect();
    assert_eq!(told, [None, basic()]);
}

#[tokio::test]
async fn a_token_is_fetched_for_reading_and_nothing_more() {
    for is_known in [false, true] {
        let registry = with_tokens(|_| ok(r#"{"token":"good","expires_in":60}"#)).await;
        let (resolver, _dir) = if is_known {
            knowing(registry.address)
        } else {
            configured("{}")
        };
        assert_eq!(manifest(&resolver, registry.address).await.unwrap().len(), 1);
        let seen = registry.seen();
        assert_eq!(
            seen[1].path,
            "/token?own=1&scope=repository%3Ateam%2Fapp%3Apull&service=a%20b%26c"
        );
        assert_eq!(seen[1].authorization, is_known.then(basic).flatten());
        assert_eq!(seen[2].authorization, bearer("good"));
        assert_eq!(seen.len(), 3);
    }
}

#[tokio::test]
async fn a_token_is_used_again_for_the_entry_of_an_index() {
    let child = digest_of(MANIFEST);
    let index = format!(r#"{{"manifests":[{{"digest":"{child}"}}]}}"#);
    let top = digest_of(&index);
    let path = manifest_path(&top);
    let registry = Registry::start(move |seen| {
        if seen.path.starts_with("/token") {
            ok(r#"{"access_token":"good"}"#)
        } else if seen.authorization != bearer("good") {
            challenge(&format!(r#"Bearer realm="http://{}/token""#, seen.host))
        } else if seen.path == path {
            ok(index.clone())
        } else {
            ok(MANIFEST)
        }
    })
    .await;
    let documents = resolve(&anonymous(), registry.address, &top, PATIENT)
        .await
        .unwrap();
    assert_eq!((documents.len(), registry.seen().len()), (2, 4));
}

#[tokio::test]
async fn answers_without_a_good_token_are_errors() {
    let long = format!(r#"{{"token":"{}"}}"#, "x".repeat((16 << 10) + 1));
    for answer in [
        "",
        "{}",
        r#"{"token":""}"#,
        r#"{"token":7}"#,
        r#"{"token":"a\nb"}"#,
        &long,
    ] {
        let answer = answer.to_owned();
        let registry = with_tokens(move |_| ok(answer.clone())).await;
        let error = manifest(&anonymous(), registry.address).await.unwrap_err();
        assert!(matches!(error, ResolveError::NoToken { .. }), "{error:?}");
    }
    let registry = with_tokens(|_| ok(vec![b' '; (64 << 10) + 1])).await;
    let error = manifest(&anonymous(), registry.address).await.unwrap_err();
    assert!(
        matches!(
            &error,
            ResolveError::Exchange {
                source: ExchangeError::TooLong { .. },
                ..
            }
        ),
        "{error:?}"
    );
    let registry = with_tokens(|_| Some(status(500))).await;
    let error = manifest(&anonymous(), registry.address).await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Status { status: 500, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_not_fetched_again_and_again() {
    let registry = with_tokens(|_| ok(r#"{"token":"secret-but-bad"}"#)).await;
    let error = manifest(&anonymous(), registry.address).await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Denied { status: 401, .. }),
        "{error:?}"
    );
    assert_eq!(registry.seen().len(), 3);
}

#[tokio::test]
async fn who_is_not_let_in_is_told_about_helpers() {
    let registry = with_tokens(|_| Some(status(401))).await;
    let (resolver, _dir) = configured(r#"{"credsStore":"pass"}"#);
    let error = manifest(&resolver, registry.address).await.unwrap_err();
    assert!(
        error.to_string().contains("helper \"pass\", which is not run"),
        "{error}"
    );
    let registry = Registry::start(|_| challenge("Basic")).await;
    let error = manifest(&anonymous(), registry.address).await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Denied { status: 401, .. }),
        "{error:?}"
    );
    assert_eq!(registry.seen().len(), 1);
    let registry = Registry::start(|_| Some(status(403))).await;
    let error = manifest(&anonymous(), registry.address).await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Denied { status: 403, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_challenge_that_cannot_be_met_is_an_error() {
    for text in ["Negotiate", "Bearer", "Digest realm=\"x\""] {
        let registry = Registry::start(move |_| challenge(text)).await;
        let error = manifest(&anonymous(), registry.address).await.unwrap_err();
        assert!(matches!(error, ResolveError::Challenge { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_hostile_realm_gets_nothing() {
    let thief = Registry::start(|_| ok(r#"{"token":"good"}"#)).await;
    let other_host = format!("http://localhost:{}/", thief.address.port());
    for (realm, is_elsewhere) in [
        (other_host.as_str(), true),
        ("http://auth.invalid/", true),
        ("http://169.254.169.254/", true),
        ("https://169.254.169.254/", false),
        ("https://[fe80::1]/", false),
        ("file:///etc/passwd", true),
        ("", true),
    ] {
        let text = format!("Bearer realm=\"{realm}\"");
        let registry = Registry::start(move |_| challenge(&text)).await;
        let (resolver, _dir) = knowing(registry.address);
        let error = manifest(&resolver, registry.address).await.unwrap_err();
        let is_expected = if is_elsewhere {
            matches!(error, ResolveError::Elsewhere { .. })
        } else {
            matches!(
                &error,
                ResolveError::Exchange {
                    source: ExchangeError::Inwards { .. },
                    ..
                }
            )
        };
        assert!(is_expected, "{realm}: {error:?}");
    }
    assert_eq!(thief.seen(), []);
}

#[tokio::test]
async fn a_password_does_not_follow_a_token_service_that_redirects() {
    let thief = Registry::start(|_| ok(r#"{"token":"good"}"#)).await;
    let to_thief = format!("http://{}/?x", thief.address);
    let registry = with_tokens(move |_| registry::redirect(&to_thief)).await;
    let (resolver, _dir) = knowing(registry.address);
    assert_eq!(manifest(&resolver, registry.address).await.unwrap().len(), 1);
    assert_eq!(registry.seen()[1].authorization, basic());
    assert_eq!(thief.seen()[0].authorization, None);
}
