//! Where a registry may send us, how often, and with what in the hand.

use std::sync::Arc;

use super::address::Reach;
use super::registry::{Registry, ok, redirect};
use super::*;

#[tokio::test]
async fn some_redirects_are_followed_and_no_more() {
    for (hops, is_followed) in [(5, true), (6, false)] {
        let registry = Registry::start(move |seen| {
            let at = seen
                .path
                .strip_prefix("/hop/")
                .map_or(0, |at| at.parse().unwrap());
            if at == hops {
                ok(MANIFEST)
            } else {
                redirect(&format!("/hop/{}", at + 1))
            }
        })
        .await;
        let documents = manifest(&anonymous(), registry.address).await;
        assert_eq!(documents.is_ok(), is_followed, "{hops}: {documents:?}");
        assert_eq!(registry.seen().len(), 6, "{hops}");
    }
}

#[tokio::test]
async fn a_circle_ends() {
    let registry = Registry::start(|seen| redirect(&seen.path)).await;
    let error = manifest(&anonymous(), registry.address).await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Redirects { limit: 5, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_credential_stays_with_its_host_and_does_not_come_back() {
    let store = Registry::start(|seen| redirect(seen.path.strip_prefix("/to?").unwrap())).await;
    let to_store = store.address;
    let registry = Registry::start(move |seen| match seen.path.as_str() {
        "/back?secret=1" => ok(MANIFEST),
        "/near" => redirect(&format!(
            "http://{to_store}/to?http://{}/back?secret=1",
            seen.host
        )),
        _ if seen.authorization.is_none() => registry::challenge("Basic"),
        _ => redirect("/near"),
    })
    .await;
    let (resolver, _dir) = knowing(registry.address);
    assert_eq!(manifest(&resolver, registry.address).await.unwrap().len(), 1);
    let basic = Some(format!("Basic {AUTH}"));
    let told: Vec<_> = registry
        .seen()
        .into_iter()
        .map(|seen| seen.authorization)
        .collect();
    assert_eq!(told, [None, basic.clone(), basic, None]);
    assert_eq!(store.seen()[0].authorization, None);
}

#[tokio::test]
async fn a_challenge_from_elsewhere_is_not_met() {
    let thief = Registry::start(|_| registry::challenge("Basic")).await;
    let to_thief = format!("http://{}/", thief.address);
    let registry = Registry::start(move |_| redirect(&to_thief)).await;
    let (resolver, _dir) = knowing(registry.address);
    let error = manifest(&resolver, registry.address).await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Denied { status: 401, .. }),
        "{error:?}"
    );
    let told: Vec<_> = thief.seen().into_iter().map(|seen| seen.authorization).collect();
    assert_eq!(told, [None]);
}

#[tokio::test]
async fn nobody_is_sent_to_the_link() {
    for inwards in [
        "http://169.254.169.254/latest/meta-data/?secret",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
    ] {
        let registry = Registry::start(move |_| redirect(inwards)).await;
        let error = manifest(&anonymous(), registry.address).await.unwrap_err();
        assert!(
            matches!(
                &error,
                ResolveError::Exchange {
                    source: ExchangeError::Inwards { reach: Reach::Link },
                    ..
                }
            ),
            "{inwards}: {error:?}"
        );
    }
}

#[tokio::test]
async fn tls_is_not_left() {
    let plain = Registry::start(|_| ok(MANIFEST)).await;
    let to_plain = Arc::new(format!("http://{}/?secret", plain.address));
    let (registry, authority) = Registry::start_tls(move |_| redirect(&to_plain)).await;
    let resolver = Resolver::new(ResolverSettings {
        schemes: [(registry.address.to_string(), Scheme::Https)].into(),
        authorities: vec![authority.path().to_owned()],
        ..ResolverSettings::default()
    })
    .unwrap();
    let error = manifest(&resolver, registry.address).await.unwrap_err();
    assert!(
        matches!(
            error,
            ResolveError::Elsewhere {
                source: TargetError::Clear,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(plain.seen(), []);
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_an_error() {
    for location in ["relative", "ftp://127.0.0.1/", "http://user:secret@127.0.0.1/"] {
        let registry = Registry::start(move |_| redirect(location)).await;
        let error = manifest(&anonymous(), registry.address).await.unwrap_err();
        assert!(matches!(error, ResolveError::Elsewhere { .. }), "{error:?}");
    }
    let registry = Registry::start(|_| Some(status(302))).await;
    let error = manifest(&anonymous(), registry.address).await.unwrap_err();
    assert!(matches!(error, ResolveError::Elsewhere { .. }), "{error:?}");
}
