//! The harness at its plainest: good images arrive whole on both containerds, whatever their format and registry.

use std::time::Duration;

use magi_integration::docker_registry::DockerRegistry;
use magi_integration::image::{Compression, Image, ImageBuilder, Layer};
use magi_integration::registry::{Auth, Kind, Options};
use magi_integration::{Behaviour, Containerd, Line, Pod, Registry, containerd, crictl};

fn credentials() -> (String, String) {
    ("user".to_owned(), "secret".to_owned())
}

fn small_image() -> anyhow::Result<Image> {
    ImageBuilder::oci()
        .layer(Layer::random(1, 3 << 20, Compression::Gzip)?)
        .layer(Layer::random(2, 2 << 20, Compression::None)?)
        .layer(Layer::compressible(3, 4 << 20, Compression::Zstd)?)
        .build()
}

#[tokio::test]
async fn a_good_image_arrives_plain() -> anyhow::Result<()> {
    good_pull(Options::plain()).await
}

#[tokio::test]
async fn a_good_image_arrives_over_tls_with_tokens() -> anyhow::Result<()> {
    let auth = Auth {
        credentials: Some(credentials()),
        ..Auth::default()
    };
    good_pull(Options::tls().with_auth(auth)).await
}

async fn good_pull(options: Options) -> anyhow::Result<()> {
    let guarded = options.auth.is_some();
    let registry = Registry::start_with(options)?;
    let image = small_image()?;
    let reference = registry.put("team/web", "1", &image);
    for node in containerd::both().await? {
        node.trust(&registry)?;
        if guarded {
            let refused = node.cri().pull(&reference).await;
            assert!(
                refused.error().contains("401"),
                "pulled without credentials: {refused:?}"
            );
        }
        let pull = node
            .cri()
            .pull_as(&reference, None, Some(("user", "secret")))
            .await;
        assert_eq!(
            pull.outcome.as_deref(),
            Ok(image.id()),
            "{}\n{}",
            registry.log().table(),
            node.log_tail(20)
        );
        let images = node.api().images().await?;
        assert!(
            images.contains(&(reference.clone(), image.digest().to_owned())),
            "{images:?}"
        );
        println!(
            "{} {}: pulled in {:?}",
            node.line(),
            node.version(),
            pull.elapsed()
        );
        node.shutdown()?.expect_none()?;
    }
    // Each layer went over the wire once for each node, whole.
    let layers = registry.log().layers("team/web");
    let served: u64 = layers
        .iter()
        .filter(|request| request.status == 200)
        .map(|request| request.body_sent)
        .sum();
    assert_eq!(served, 2 * image.declared(), "{}", registry.log().table());
    Ok(())
}

#[tokio::test]
async fn docker_and_oci_images_with_and_without_index_arrive_over_ipv6() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let Some(host) = registry.host_v6() else {
        println!("no IPv6 on this machine: nothing to test");
        return Ok(());
    };
    let layer = Layer::random(4, 1 << 20, Compression::Gzip)?;
    let builders = [
        ("docker", ImageBuilder::docker()),
        ("docker-list", ImageBuilder::docker().with_index()),
        ("oci", ImageBuilder::oci()),
        ("oci-index", ImageBuilder::oci().with_index()),
    ];
    for node in containerd::both().await? {
        node.trust(&registry)?;
        for (tag, builder) in builders.clone() {
            let image = builder.label("tag", tag).layer(layer.clone()).build()?;
            registry.put("formats", tag, &image);
            let pull = node.cri().pull(&format!("{host}/formats:{tag}")).await;
            assert_eq!(
                pull.outcome.as_deref(),
                Ok(image.id()),
                "{tag} on {}",
                node.line()
            );
        }
        node.shutdown()?.expect_none()?;
    }
    assert!(
        registry
            .log()
            .requests()
            .iter()
            .all(|request| request.peer.is_ipv6())
    );
    Ok(())
}

#[tokio::test]
async fn tokens_that_expire_during_the_pull_are_fetched_again() -> anyhow::Result<()> {
    let auth = Auth {
        credentials: None,
        lifetime: Duration::from_millis(300),
    };
    let registry = Registry::start_with(Options::plain().with_auth(auth))?;
    let layers = (0..6)
        .map(|seed| Layer::random(seed, 1 << 20, Compression::Gzip))
        .collect::<Result<Vec<_>, _>>()?;
    let image = ImageBuilder::oci().layers(layers).build()?;
    let reference = registry.put("slow", "1", &image);
    // Three at once, half a second each: the second half starts with a token that has expired.
    registry.behave("slow", Behaviour::rate(2 << 20));
    let node = Containerd::start(Line::V2).await?;
    node.trust(&registry)?;
    let pull = node.cri().pull(&reference).await;
    assert_eq!(
        pull.outcome.as_deref(),
        Ok(image.id()),
        "{}",
        registry.log().table()
    );
    let tokens = registry
        .log()
        .requests()
        .iter()
        .filter(|request| request.kind == Kind::Token)
        .count();
    assert!(tokens >= 2, "{}", registry.log().table());
    Ok(())
}

#[tokio::test]
async fn an_image_arrives_from_debians_docker_registry() -> anyhow::Result<()> {
    let Some(registry) = DockerRegistry::start().await? else {
        println!("no docker-registry on this system: not tested");
        return Ok(());
    };
    let image = ImageBuilder::docker()
        .layer(Layer::random(5, 3 << 20, Compression::Gzip)?)
        .build()?;
    let reference = registry.push("team/web", "1", &image).await?;
    for node in containerd::both().await? {
        node.trust_host(&registry.host(), "http", None)?;
        let pull = node
            .cri()
            .pull_as(&reference, Some(&Pod::new("team", "web")), None)
            .await;
        assert_eq!(
            pull.outcome.as_deref(),
            Ok(image.id()),
            "{}",
            registry.log_tail(20)
        );
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test]
async fn crictl_pulls_where_it_is_installed() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let image = small_image()?;
    let reference = registry.put("team/web", "1", &image);
    let node = Containerd::start(Line::V1_7).await?;
    node.trust(&registry)?;
    match crictl::run(&node.address(), &["pull", &reference])? {
        None => println!("crictl is not on PATH: not tested"),
        Some(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(node.cri().image(&reference).await?.is_some());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_containerd_that_was_killed_or_restarted_serves_again_and_keeps_its_images() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let reference = registry.put("team/web", "1", &small_image()?);
    for mut node in containerd::both().await? {
        node.trust(&registry)?;
        let (cri, first) = (node.cri(), node.pid());
        assert!(cri.pull(&reference).await.outcome.is_ok());
        node.restart().await?;
        assert!(cri.image(&reference).await?.is_some(), "lost by a restart");
        node.kill9()?;
        assert!(
            cri.image(&reference).await.is_err(),
            "answers after it was killed"
        );
        node.start_again().await?;
        assert!(cri.image(&reference).await?.is_some(), "lost by a kill");
        assert_ne!(node.pid(), first);
        cri.remove(&reference).await?;
        node.api()
            .expect_nothing_left(&Default::default(), Duration::from_secs(10))
            .await?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}
