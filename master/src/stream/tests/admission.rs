//! Who gets in, and who does not.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use jiff::Timestamp;
use magi_master_api::bounds::MAX_UP;
use magi_master_api::client::{FromMaster, channel};
use magi_master_api::message::{Hello, NodeFacts, Up};
use magi_master_api::tls::{ALPN, Material, TlsFiles, provider};
use magi_master_api::wire;
use magi_master_api::wire::admin_client::AdminClient;
use magi_master_api::wire::nodes_client::NodesClient;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};

use super::verdict;
use super::world::{NAME, World, issue, node};
use crate::certs::{Authority, Subject};
use crate::counters::Count;
use crate::names::NodeName;
use crate::stream::identity::Peer;

/// A hello of `name`, and nothing after it; the stream stays open.
fn hello(name: &str) -> impl futures_util::Stream<Item = wire::Up> + Send + 'static {
    let hello = Up::Hello(Hello {
        node: name.to_owned(),
        ..Hello::default()
    });
    let waiting = stream::pending();
    futures_util::StreamExt::chain(stream::iter([hello.into()]), waiting)
}

async fn attend(world: &World, tls: &TlsFiles, name: &str) -> Result<wire::Down, Status> {
    let channel = channel(&world.address.to_string(), NAME, tls).await.unwrap();
    let mut down = NodesClient::new(channel).attend(hello(name)).await?.into_inner();
    down.message().await.map(Option::unwrap)
}

#[tokio::test]
async fn no_certificate_no_connection() {
    let world = World::new().await;
    let material = Material::read(&world.certificate(&node("a"))).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(material.roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let tcp = TcpStream::connect(world.address).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap();
    assert!(stream.read_u8().await.is_err(), "the master has nothing to say");
    world.counted(Count::RefusedNoCertificate, 1).await;
    let mut plain = TcpStream::connect(world.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer).await;
    world.counted(Count::RefusedTls, 1).await;
    assert_eq!(world.count(Count::Accepted), 0);
}

#[tokio::test]
async fn wrong_certificates_are_refused_and_counted() {
    let world = World::new().await;
    let folder = world.folder.path();
    issue(&world.authority, &folder.join("expired"), &node("a"), -1);
    let foreign = Authority::new(Timestamp::now()).unwrap();
    issue(&foreign, &folder.join("foreign"), &node("a"), 1);
    // It trusts the real master, so that the refusal is the master's.
    std::fs::copy(folder.join("ca.crt"), folder.join("foreign/ca.crt")).unwrap();
    issue(&world.authority, &folder.join("nobody"), &Subject::Nobody, 1);
    for (name, count) in [
        ("expired", Count::RefusedExpired),
        ("foreign", Count::RefusedAuthority),
        ("nobody", Count::RefusedNameless),
    ] {
        let mut node = world.node_with("a", world.address, TlsFiles::in_folder(&folder.join(name)), None);
        node.loss().await;
        world.counted(count, 1).await;
    }
    assert_eq!(
        (world.count(Count::Accepted), world.count(Count::Streams)),
        (0, 0)
    );
    assert!(world.shown("a").is_none());
}

/// A certificate of the world's authority that is over in so many seconds.
fn short(world: &World, name: &str, seconds: i64) -> TlsFiles {
    let tls = world.certificate(&node(name));
    let key =
        KeyPair::from_pem(&std::fs::read_to_string(world.folder.path().join("ca.key")).unwrap()).unwrap();
    let mut authority = CertificateParams::default();
    authority.distinguished_name = DistinguishedName::new();
    authority
        .distinguished_name
        .push(DnType::CommonName, "magi certificate authority");
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(
        Peer::Node(NodeName::new(name).unwrap()).uri().try_into().unwrap(),
    )];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let since = u64::try_from(Timestamp::now().as_second() + seconds).unwrap();
    leaf.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(since);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(authority, key)).unwrap();
    std::fs::write(&tls.certificate, leaf.pem()).unwrap();
    std::fs::write(&tls.key, leaf_key.serialize_pem()).unwrap();
    tls
}

#[tokio::test]
async fn a_certificate_that_is_over_ends_its_stream() {
    let world = World::new().await;
    let mut lasting = world.node("lasting");
    let mut node = world.node_with("a", world.address, short(&world, "a", 3), None);
    world.connected("a").await;
    world.connected("lasting").await;
    let why = node.loss().await;
    assert!(why.contains("the connection is over"), "{why}");
    assert_eq!(world.count(Count::CertificateOver), 1);
    // It comes again, and is not let in.
    world.counted(Count::RefusedExpired, 1).await;
    assert!(!world.shown("a").unwrap().is_connected);
    world.say(verdict("lasting", "still-there")).await;
    assert_eq!(lasting.verdict().await.uid, "still-there");
}

#[tokio::test]
async fn nobody_speaks_for_another() {
    let world = World::new().await;
    let a = world.certificate(&node("a"));
    let refused = attend(&world, &a, "b").await.unwrap_err();
    assert_eq!(
        (refused.code(), world.count(Count::RefusedName)),
        (Code::PermissionDenied, 1)
    );
    assert!(attend(&world, &a, "a").await.is_ok());
    let operator = world.certificate(&Subject::Peer(Peer::Operator("a".to_owned())));
    let refused = attend(&world, &operator, "a").await.unwrap_err();
    assert_eq!(
        (refused.code(), world.count(Count::RefusedRole)),
        (Code::PermissionDenied, 1)
    );
    let channel = channel(&world.address.to_string(), NAME, &a).await.unwrap();
    let refused = AdminClient::new(channel)
        .set_kill_switch(wire::SetKillSwitchRequest {
            engaged: true,
            reason: String::new(),
        })
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), world.count(Count::RefusedRole)),
        (Code::PermissionDenied, 2)
    );
    assert_eq!(world.count(Count::Streams), 1);
}

#[tokio::test]
async fn a_node_does_not_take_another_master() {
    let world = World::new().await;
    let tls = world.certificate(&node("a"));
    let foreign = Authority::new(Timestamp::now()).unwrap();
    let other = world.folder.path().join("other");
    issue(&foreign, &other, &node("a"), 1);
    std::fs::copy(other.join("ca.crt"), &tls.ca).unwrap();
    let why = world.node_with("a", world.address, tls, None).loss().await;
    assert!(why.contains("invalid peer certificate"), "{why}");
    assert_eq!(world.count(Count::Streams), 0);
}

#[tokio::test]
async fn changed_certificates_count_for_new_connections() {
    let world = World::new().await;
    let mut old = world.node("old");
    world.connected("old").await;
    let next = Authority::new(Timestamp::now()).unwrap();
    let master = world.folder.path().join("master");
    let files = TlsFiles::in_folder(&master);
    let good = std::fs::read(&files.certificate).unwrap();
    std::fs::write(&files.certificate, "half a certif").unwrap();
    world.counted(Count::ReloadFailed, 1).await;
    let mut second = world.node("second");
    assert!(
        matches!(second.hear().await, FromMaster::Connected { .. }),
        "the last ones stay"
    );
    std::fs::write(&files.certificate, good).unwrap();
    issue(&next, &master, &Subject::Master(vec![NAME.to_owned()]), 1);
    world.counted(Count::Reloaded, 1).await;
    let folder = world.folder.path().join("new");
    issue(&next, &folder, &node("new"), 1);
    let mut new = world.node_with("new", world.address, TlsFiles::in_folder(&folder), None);
    assert!(matches!(new.hear().await, FromMaster::Connected { .. }));
    let mut late = world.node("late");
    late.loss().await;
    world.say(verdict("old", "still-there")).await;
    assert_eq!(old.verdict().await.uid, "still-there");
}

#[tokio::test]
async fn oversize_and_senseless_messages_end_the_stream() {
    let world = World::new().await;
    let tls = world.certificate(&node("a"));
    let channel = channel(&world.address.to_string(), NAME, &tls).await.unwrap();
    let hello = |version: String| -> wire::Up {
        Up::Hello(Hello {
            node: "a".to_owned(),
            facts: NodeFacts {
                version,
                ..NodeFacts::default()
            },
            ..Hello::default()
        })
        .into()
    };
    let mut huge = hello(String::new());
    if let Some(wire::up::Message::Hello(hello)) = &mut huge.message {
        hello.version = "x".repeat(MAX_UP + 1);
    }
    let mut long = hello(String::new());
    if let Some(wire::up::Message::Hello(hello)) = &mut long.message {
        hello.version = "x".repeat(1000);
    }
    let pong: wire::Up = Up::Pong(1).into();
    let empty = wire::Up { message: None };
    for (first, code) in [
        (huge, Code::OutOfRange),
        (long, Code::InvalidArgument),
        (pong, Code::InvalidArgument),
        (empty, Code::InvalidArgument),
    ] {
        let mut client = NodesClient::new(channel.clone());
        let status = client.attend(stream::iter([first])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
    }
    // After a good hello: a verdict's answer whose id is none, and a message over the bound.
    let bad_id = wire::Up {
        message: Some(wire::up::Message::Verdict(wire::VerdictAnswer {
            id: vec![1; 3].into(),
            fate: wire::VerdictFate::Ended.into(),
            detail: String::new(),
        })),
    };
    let too_much = wire::Up {
        message: Some(wire::up::Message::Audit(wire::Audit {
            records: vec![wire::AuditRecord {
                mark: None,
                json: vec![b' '; 64 << 20].into(),
            }],
            lost: 0,
        })),
    };
    for (second, code) in [(bad_id, Code::InvalidArgument), (too_much, Code::OutOfRange)] {
        let before = world.count(Count::BadMessage);
        let mut client = NodesClient::new(channel_of(&world, &tls).await);
        let mut down = client
            .attend(stream::iter([hello(String::new()), second]))
            .await
            .unwrap()
            .into_inner();
        let status = loop {
            match down.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended well"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(world.count(Count::BadMessage), before + 1);
    }
}

async fn channel_of(world: &World, tls: &TlsFiles) -> tonic::transport::Channel {
    channel(&world.address.to_string(), NAME, tls).await.unwrap()
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let world = World::new().await;
    let tls = world.certificate(&node("a"));
    let _silent = TcpStream::connect(world.address).await.unwrap();
    let _idle = channel_of(&world, &tls).await;
    world.counted(Count::RefusedSlow, 1).await;
    world.counted(Count::RefusedSilent, 1).await;
}
