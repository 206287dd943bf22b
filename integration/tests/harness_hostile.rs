//! Each trick of the registry shows on the wire, and the ones that matter show in containerd as they should.

use std::time::{Duration, Instant};

use http::Method;
use http::header::RANGE;
use magi_integration::api::Counts;
use magi_integration::http_client::{Client, Stop};
use magi_integration::image::{self, Compression, ImageBuilder, Layer};
use magi_integration::registry::{Body, Content, Kind, Options, content};
use magi_integration::{Behaviour, Registry, containerd, wait};

const BOUND: Duration = Duration::from_secs(15);
const QUIET: Duration = Duration::from_millis(300);
const LAYER: u64 = 1 << 20;

/// A registry with one layer behaving so, a client of it, and the layer's path.
fn one_layer(behaviour: Behaviour) -> anyhow::Result<(Registry, Client, String, Layer)> {
    let registry = Registry::start()?;
    let layer = Layer::random(1, LAYER, Compression::None)?;
    registry.put("bad", "1", &ImageBuilder::oci().layer(layer.clone()).build()?);
    registry.behave("bad", behaviour);
    let client = Client::plain(registry.address());
    let path = format!("/v2/bad/blobs/{}", layer.digest);
    Ok((registry, client, path, layer))
}

fn length(reply: &magi_integration::http_client::Reply) -> Option<u64> {
    reply.header("content-length").parse().ok()
}

#[tokio::test]
async fn an_honest_layer_has_its_length_bytes_and_ranges() -> anyhow::Result<()> {
    let (registry, client, path, layer) = one_layer(Behaviour::default())?;
    let mut reply = client.get(&path).await?;
    assert_eq!(length(&reply), Some(layer.declared));
    let (bytes, stop) = reply.read(usize::MAX, QUIET).await;
    assert_eq!(
        (content::digest_of(&bytes), stop),
        (layer.digest.clone(), Stop::End)
    );

    let mut rest = client
        .send(
            Method::GET,
            &path,
            &[(RANGE, "bytes=1000000-")],
            Default::default(),
        )
        .await?;
    let last = layer.declared - 1;
    assert_eq!(rest.status, 206);
    assert_eq!(
        rest.header("content-range"),
        format!("bytes 1000000-{last}/{}", layer.declared)
    );
    let (tail, _) = rest.read(usize::MAX, QUIET).await;
    assert_eq!(tail, bytes[1_000_000..]);

    let head = client.send(Method::HEAD, &path, &[], Default::default()).await?;
    assert_eq!((head.status.as_u16(), length(&head)), (200, Some(layer.declared)));
    let log = registry.log().layers("bad");
    assert_eq!(
        log.iter().map(|request| request.peer).collect::<Vec<_>>(),
        [reply.local, rest.local, head.local]
    );
    assert_eq!(
        log.iter().map(|r| r.range_start).collect::<Vec<_>>(),
        [0, 1_000_000, 0]
    );
    assert!(
        log.iter().all(|request| request.digest == layer.digest),
        "{}",
        registry.log().table()
    );
    Ok(())
}

#[tokio::test]
async fn a_rate_is_kept() -> anyhow::Result<()> {
    let (_registry, client, path, layer) = one_layer(Behaviour::rate(LAYER))?;
    let start = Instant::now();
    let (bytes, stop) = client.get(&path).await?.read(usize::MAX, QUIET).await;
    let took = start.elapsed();
    assert_eq!((bytes.len() as u64, stop), (layer.declared, Stop::End));
    assert!(
        took > Duration::from_millis(900) && took < Duration::from_millis(3000),
        "took {took:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_stall_is_silent_and_a_close_is_not() -> anyhow::Result<()> {
    let (registry, client, path, _) = one_layer(Behaviour::stall_after(100_000))?;
    let mut reply = client.get(&path).await?;
    let (bytes, stop) = reply.read(usize::MAX, QUIET).await;
    assert_eq!((bytes.len(), stop), (100_000, Stop::Quiet));
    assert_eq!(registry.log().layer_bytes("bad"), 100_000);
    drop(reply);
    // The registry notices that a client left it, though it has nothing to send.
    registry
        .log()
        .wait_for("the end", BOUND, |requests| {
            requests.iter().all(|r| r.ended.is_some()).then_some(())
        })
        .await?;

    registry.behave(
        "bad",
        Behaviour {
            close_after: Some(100_000),
            ..Behaviour::default()
        },
    );
    let (bytes, stop) = client.get(&path).await?.read(usize::MAX, QUIET).await;
    assert!(
        bytes.len() <= 100_000 && stop == Stop::Broken,
        "{} {stop:?}",
        bytes.len()
    );
    Ok(())
}

#[tokio::test]
async fn endless_layers_go_on_beyond_what_was_declared() -> anyhow::Result<()> {
    for (behaviour, claimed) in [
        (Behaviour::endless(), None),
        (Behaviour::endless_with_length(), Some(1 << 40)),
    ] {
        let (registry, client, path, layer) = one_layer(behaviour)?;
        let mut reply = client.get(&path).await?;
        assert_eq!(length(&reply), claimed);
        assert_eq!(reply.header("transfer-encoding") == "chunked", claimed.is_none());
        let (bytes, stop) = reply.read(20 << 20, QUIET).await;
        assert_eq!(stop, Stop::Enough);
        let honest = usize::try_from(layer.declared)?;
        assert_eq!(
            content::digest_of(&bytes[..honest]),
            layer.digest,
            "begins with the layer itself"
        );
        // What counts as sent is what the client can have got: two socket buffers more than it read.
        let ahead = registry
            .log()
            .layer_bytes("bad")
            .saturating_sub(bytes.len() as u64);
        assert!(ahead < 8 << 20, "counted {ahead} bytes more than were read");
        drop(reply);
        let reply = client
            .send(
                Method::GET,
                &path,
                &[(RANGE, "bytes=5000000-")],
                Default::default(),
            )
            .await?;
        assert_eq!(reply.status, 206, "resumes beyond the declared end too");
    }
    Ok(())
}

#[tokio::test]
async fn wrong_bytes_refusals_redirects_and_delays() -> anyhow::Result<()> {
    let (registry, client, path, layer) = one_layer(Behaviour::wrong_bytes())?;
    let (bytes, stop) = client.get(&path).await?.read(usize::MAX, QUIET).await;
    assert_eq!((bytes.len() as u64, stop), (layer.declared, Stop::End));
    assert_ne!(content::digest_of(&bytes), layer.digest);

    registry.behave("bad", Behaviour::too_many_requests());
    for _ in 0..3 {
        assert_eq!(client.get(&path).await?.status, 429);
    }
    assert_eq!(client.get("/v2/bad/manifests/1").await?.status, 200);
    registry.behave(
        "bad",
        Behaviour {
            status_for_all: Some(429),
            ..Behaviour::default()
        },
    );
    assert_eq!(client.get("/v2/bad/manifests/1").await?.status, 429);

    registry.behave("bad", Behaviour::redirect_to("http://127.0.0.1:9"));
    let reply = client.get(&path).await?;
    assert_eq!(
        (reply.status.as_u16(), reply.header("location")),
        (307, format!("http://127.0.0.1:9{path}").as_str())
    );

    registry.behave(
        "bad",
        Behaviour {
            delay: QUIET,
            ..Behaviour::default()
        },
    );
    let start = Instant::now();
    client.get(&path).await?;
    assert!(start.elapsed() >= QUIET);
    Ok(())
}

#[tokio::test]
async fn bombs_are_small_on_the_wire() -> anyhow::Result<()> {
    let (registry, client, path, _) = one_layer(Behaviour::encoding_bomb(1 << 30))?;
    let mut reply = client.get(&path).await?;
    assert_eq!(reply.header("content-encoding"), "gzip");
    let (wire, stop) = reply.read(usize::MAX, QUIET).await;
    assert_eq!(stop, Stop::End);
    assert_eq!(unpacked(&wire)?, 1 << 30);
    assert!(wire.len() < 2 << 20, "{} bytes on the wire", wire.len());

    let bomb = Layer::bomb(7, (1 << 30) + 1000)?;
    registry.put_blob("bad", &bomb.digest, bomb.content.clone(), true);
    registry.behave("bad", Behaviour::default());
    let (wire, _) = client
        .get(&format!("/v2/bad/blobs/{}", bomb.digest))
        .await?
        .read(usize::MAX, QUIET)
        .await;
    assert_eq!(content::digest_of(&wire), bomb.digest);
    assert!(unpacked(&wire)? >= (1 << 30) + 1000);
    assert!(wire.len() < 2 << 20, "{} bytes on the wire", wire.len());
    Ok(())
}

fn unpacked(gzip: &[u8]) -> anyhow::Result<u64> {
    Ok(std::io::copy(
        &mut flate2::read::MultiGzDecoder::new(gzip),
        &mut std::io::sink(),
    )?)
}

#[tokio::test]
async fn a_lying_layer_grows_its_ingest_beyond_its_total() -> anyhow::Result<()> {
    for (behaviour, tls) in [
        (Behaviour::endless(), false),
        (Behaviour::endless_with_length(), true),
    ] {
        let registry = Registry::start_with(if tls { Options::tls() } else { Options::plain() })?;
        let layer = Layer::random(1, LAYER, Compression::Gzip)?;
        let image = ImageBuilder::oci().layer(layer.clone()).build()?;
        let reference = registry.put("lying", "1", &image);
        registry.behave("lying", behaviour.at(40_000_000));
        for node in containerd::both().await? {
            node.trust(&registry)?;
            let (cri, api, name) = (node.cri(), node.api(), reference.clone());
            let pull = tokio::spawn(async move { cri.pull(&name).await });
            let ingest = wait::until(
                "an ingest beyond its total",
                BOUND,
                Duration::from_millis(10),
                async || {
                    api.ingests()
                        .await
                        .ok()?
                        .into_iter()
                        .find(|one| one.total > 0 && one.offset > 2 * one.total)
                },
            )
            .await?;
            assert_eq!(ingest.total, layer.declared);
            assert!(ingest.reference.ends_with(&layer.digest), "{ingest:?}");
            pull.abort();
            let _ = pull.await;
            node.expect_nothing_left(&Counts::default(), BOUND).await?;
            node.shutdown()?.expect_none()?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_encoding_bomb_fills_an_ingest_with_far_more_than_was_sent() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let image = ImageBuilder::oci().layer(Layer::declared(1, LAYER)).build()?;
    let reference = registry.put("bomb", "1", &image);
    // 60 kB/s on the wire are about 60 MB/s in the store.
    registry.behave(
        "bomb",
        Behaviour {
            body: Body::GzipEncoded(64 << 30),
            ..Behaviour::rate(60_000)
        },
    );
    for node in containerd::both().await? {
        node.trust(&registry)?;
        registry.log().clear();
        let (cri, api, name) = (node.cri(), node.api(), reference.clone());
        let pull = tokio::spawn(async move { cri.pull(&name).await });
        let offset = wait::until(
            "20 MiB in an ingest",
            BOUND,
            Duration::from_millis(10),
            async || {
                api.ingests()
                    .await
                    .ok()?
                    .into_iter()
                    .map(|one| one.offset)
                    .find(|offset| *offset > 20 << 20)
            },
        )
        .await?;
        let sent = registry.log().layer_bytes("bomb");
        assert!(offset > 100 * sent, "{offset} bytes stored, {sent} sent");
        pull.abort();
        let _ = pull.await;
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test]
async fn layers_come_from_another_host_after_a_redirect() -> anyhow::Result<()> {
    let front = Registry::start()?;
    let back = Registry::start()?;
    let image = ImageBuilder::oci()
        .layer(Layer::random(3, LAYER, Compression::Gzip)?)
        .build()?;
    let reference = front.put("moved", "1", &image);
    back.put("moved", "1", &image);
    front.behave("moved", Behaviour::redirect_to(back.base()));
    for node in containerd::both().await? {
        node.trust(&front)?;
        let pull = node.cri().pull(&reference).await;
        assert_eq!(pull.outcome.as_deref(), Ok(image.id()), "{}", front.log().table());
        node.shutdown()?.expect_none()?;
    }
    assert_eq!(
        (front.log().layer_bytes("moved"), back.log().layer_bytes("moved")),
        (0, 2 * image.declared())
    );
    Ok(())
}

#[tokio::test]
async fn bad_manifests_fail_and_leave_nothing() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let good = ImageBuilder::oci()
        .layer(Layer::random(3, LAYER, Compression::Gzip)?)
        .build()?;
    let padded = image::padded_manifest(&good, 4 << 20)?;
    assert_eq!(padded.top.bytes.len(), 4 << 20);
    registry.put_raw("padded", "1", &padded);
    let bad = [
        ("truncated", image::truncated_manifest(&good)),
        ("garbage", image::garbage(vec![0xff; 100_000])),
        ("itself", image::index_of_itself()?),
        ("loop", image::index_loop()?),
    ];
    for (name, raw) in &bad {
        registry.put_raw(name, "1", raw);
    }
    registry.put_raw("nested", "1", &image::nested_indexes(&good, 50)?);
    let wrong = ImageBuilder::oci().layer(Layer::declared(3, LAYER)).build()?;
    registry.put("wrong", "1", &wrong);
    for node in containerd::both().await? {
        node.trust(&registry)?;
        for name in bad.iter().map(|(name, _)| *name).chain(["wrong"]) {
            let pull = node.cri().pull(&registry.reference(name, "1")).await;
            println!("{} {name}: {}", node.line(), pull.error());
            assert!(pull.outcome.is_err(), "{name} was pulled");
            node.expect_nothing_left(&Counts::default(), BOUND).await?;
        }
        for name in ["nested", "padded"] {
            let pull = node.cri().pull(&registry.reference(name, "1")).await;
            assert_eq!(pull.outcome.as_deref(), Ok(good.id()), "{name}");
        }
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test]
async fn ten_thousand_layers_are_a_manifest_that_containerd_takes() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let image = image::many_layers(10_000, LAYER)?;
    let reference = registry.put("many", "1", &image);
    registry.behave("many", Behaviour::stall_after(1));
    for node in containerd::both().await? {
        node.trust(&registry)?;
        registry.log().clear();
        let (cri, name) = (node.cri(), reference.clone());
        let pull = tokio::spawn(async move { cri.pull(&name).await });
        registry
            .log()
            .wait_for("layers being asked for", 4 * BOUND, |requests| {
                (requests
                    .iter()
                    .filter(|request| request.kind == Kind::Layer)
                    .count()
                    >= 3)
                    .then_some(())
            })
            .await?;
        pull.abort();
        let _ = pull.await;
        // How fast so many ingests go is containerd's matter: 2.x opens them all before it downloads the first.
        let left = node
            .api()
            .left_behind(&Counts::default(), Duration::from_secs(5))
            .await?;
        println!("{}: {left:?} five seconds after the cancel", node.line());
        node.shutdown()?;
    }
    Ok(())
}

#[test]
fn a_huge_layer_needs_no_memory() {
    let layer = Layer::declared(1, 4 << 40);
    assert_eq!(layer.content.len(), 4 << 40);
    assert_eq!(layer.content.slice(3 << 40, 100).len(), 100);
    assert!(matches!(layer.content, Content::Generated { .. }));
}
