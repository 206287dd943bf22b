//! The harness at its plainest: good images arrive whole on both containerds.

use std::time::Duration;

use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::registry::{Auth, Options};
use magi_integration::{Registry, containerd};

#[tokio::test]
async fn a_good_image_arrives_plain() -> anyhow::Result<()> {
    good_pull(Options::plain()).await
}

#[tokio::test]
async fn a_good_image_arrives_over_tls_with_tokens() -> anyhow::Result<()> {
    let auth = Auth {
        credentials: Some(("user".into(), "secret".into())),
        lifetime: Duration::from_secs(300),
    };
    good_pull(Options::tls().with_auth(auth)).await
}

async fn good_pull(options: Options) -> anyhow::Result<()> {
    let registry = Registry::start_with(options)?;
    let image = ImageBuilder::oci()
        .layer(Layer::random(1, 3 << 20, Compression::Gzip)?)
        .layer(Layer::random(2, 2 << 20, Compression::None)?)
        .layer(Layer::compressible(3, 4 << 20, Compression::Zstd)?)
        .build()?;
    let reference = registry.put("team/web", "1", &image);
    for node in containerd::both().await? {
        node.trust(&registry)?;
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
            "{} {} pulled in {:?}",
            node.line(),
            node.version(),
            pull.elapsed()
        );
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}
