//! Ways on which the bytes of a layer without end may come: is the right connection found, and no other?

use std::fs;

use anyhow::{Context, Result};

use super::{Attack, Case, DECLARED, MIB, RATE, Scene};
use crate::hostile::stage::behind_proxy;
use crate::image::{Compression, Image, ImageBuilder, Layer};
use crate::{Behaviour, Registry, registry};

const SHARED: &str = "its connection may be another pull's as well, so it is not closed";

pub(super) const CASES: &[Case] = &[
    Case::new(
        "redirects",
        "… after redirects to another port and to 127.0.0.2",
        |scene| {
            let (world, image) = (scene.world, endless(scene)?);
            let reference = scene.put(&world.plain, &image, Behaviour::redirect_to(world.other.base()));
            scene.put(&world.other, &image, Behaviour::redirect_to(world.far.base()));
            scene.put(&world.far, &image, Behaviour::endless().at(RATE));
            Attack::of(reference)
        },
    ),
    Case::new(
        "two-registries",
        "… from a registry whose twin serves a good image of the same name",
        |scene| {
            let good = ImageBuilder::oci()
                .layer(Layer::random(scene.seed + 1, MIB, Compression::Gzip)?)
                .build()?;
            let good_reference = scene.put(&scene.world.plain, &good, Behaviour::rate(RATE));
            let reference = scene.put(
                &scene.world.other,
                &endless(scene)?,
                Behaviour::endless().at(RATE),
            );
            Ok(Attack {
                pulls: vec![reference],
                healthy: Some((good_reference, good)),
            })
        },
    ),
    Case::new("ipv6", "… over IPv6", |scene| {
        let registry = &scene.world.plain;
        let by_v4 = served(scene, registry)?;
        let v6 = registry.host_v6().context("this machine has no IPv6")?;
        Attack::of(by_v4.replacen(&registry.host(), &v6, 1))
    }),
    Case::new("proxy", "… through an HTTP proxy (CONNECT), with TLS", |scene| {
        let registry = &scene.world.tls;
        let direct = served(scene, registry)?;
        Attack::of(direct.replacen(&registry.host(), &behind_proxy(scene.world), 1))
    }),
    Case {
        if_it_escapes: SHARED,
        ..Case::new(
            "foreign-urls",
            "… from a descriptor's `urls`, over HTTP/2 by containerd's default client",
            foreign,
        )
    },
    Case {
        if_it_escapes: SHARED,
        ..Case::new(
            "foreign-shared",
            "… the same, and the healthy pull's layer comes over the same connection",
            |scene| {
                let mut attack = foreign(scene)?;
                attack.healthy = Some(good_from(&scene.world.tls, scene)?);
                Ok(attack)
            },
        )
    },
    Case::new(
        "expiring-token",
        "… resumed every 2 MiB, with tokens that last 0.7 s; 8 MiB declared",
        |scene| {
            let image = ImageBuilder::oci()
                .layer(Layer::declared(scene.seed, 8 * MIB))
                .build()?;
            let behaviour = Behaviour {
                close_after: Some(2 * MIB),
                ..Behaviour::endless().at(RATE / 5)
            };
            Attack::of(scene.put(&scene.world.expiring, &image, behaviour))
        },
    ),
    Case::new("mirror", "… from a mirror that hosts.toml names", |scene| {
        let mirror = &scene.world.other;
        let host = format!("mirrored.{}", registry::NAME);
        let folder = scene.node.dir().join("certs.d").join(&host);
        fs::create_dir_all(&folder).context("a folder for hosts.toml")?;
        let text = format!(
            "server = \"https://{host}\"\n[host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            mirror.base()
        );
        fs::write(folder.join("hosts.toml"), text).context("write hosts.toml")?;
        let direct = served(scene, mirror)?;
        Attack::of(direct.replacen(&mirror.host(), &host, 1))
    }),
];

fn endless(scene: &Scene<'_>) -> Result<Image> {
    ImageBuilder::oci()
        .layer(Layer::declared(scene.seed, DECLARED))
        .build()
}

fn foreign(scene: &Scene<'_>) -> Result<Attack> {
    let far = &scene.world.tls;
    let image = ImageBuilder::oci()
        .layer(Layer::declared(scene.seed, DECLARED))
        .elsewhere(format!("{}/v2/{}/blobs/", far.base(), scene.repository))
        .build()?;
    scene.put(far, &image, Behaviour::endless().at(RATE));
    Attack::of(scene.put(&scene.world.plain, &image, Behaviour::default()))
}

/// A good image whose layer comes from the same place in the same way, slowly enough to be there all the time.
fn good_from(far: &Registry, scene: &Scene<'_>) -> Result<(String, Image)> {
    let repository = format!("{}-good", scene.repository);
    let image = ImageBuilder::oci()
        .layer(Layer::random(scene.seed + 1, 4 * MIB, Compression::Gzip)?)
        .elsewhere(format!("{}/v2/{repository}/blobs/", far.base()))
        .build()?;
    far.put(&repository, "1", &image);
    far.behave(&repository, Behaviour::rate(4_000_000));
    Ok((scene.world.plain.put(&repository, "1", &image), image))
}

fn served(scene: &Scene<'_>, registry: &Registry) -> Result<String> {
    Ok(scene.put(registry, &endless(scene)?, Behaviour::endless().at(RATE)))
}
