//! What messages mean, held against the generated types and against what containerd really sent.

use magi_wire::nri::pkg::api::v1alpha1 as nri;
use magi_wire::runtime::v1 as cri;
use proptest::prelude::*;
use prost::Message as _;

use super::super::inventory::{Container, MAX_IMAGE, MAX_LABELS, MAX_NAME};
use super::super::list;
use super::*;

const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
const IMAGE: &str = "io.kubernetes.cri.image-name";

fn asked<'a>(method: &'a str, payload: &'a [u8]) -> Asked<'a> {
    Asked::by(&ttrpc::Call {
        service: PLUGIN,
        method,
        payload,
    })
}

fn event_of(asked: &Asked<'_>) -> (Happening, Pod, Option<Container>) {
    let Asked::Event {
        happening,
        pod,
        container,
        message,
    } = *asked
    else {
        panic!("{asked:?}");
    };
    let event = decode::event(happening, (pod, container), message)
        .unwrap()
        .unwrap();
    (event.happening, event.pod, event.container)
}

#[test]
fn a_real_conversation_tells_its_story() {
    for (version, captured) in CAPTURED {
        let messages = read([captured]).unwrap();
        let (connection, registered) = &messages[0];
        assert_eq!(*connection, Connection::Runtime);
        assert_eq!(ttrpc::read_outcome(&registered.payload), Ok(Ok(())));
        let configure = ttrpc::read_call(&messages[1].1.payload).unwrap();
        assert_eq!(configure.method, "Configure");
        assert_eq!(
            decode::runtime(configure.payload),
            ("containerd".to_owned(), version.to_owned())
        );

        let story = heard(&messages);
        let [whole, started, created, stopped, removed, removed_too] = story.as_slice() else {
            panic!("{story:#?}");
        };
        let PodChange::Synchronized { pods, complete: true } = whole else {
            panic!("{whole:?}");
        };
        let before = pods.iter().find(|pod| pod.name == "before").unwrap();
        assert_eq!(before.uid, "uid-team-a-before");
        assert_eq!(before.namespace, "team-a");
        assert_eq!(before.labels["app"], "web");
        assert!(before.images["main"].starts_with("127.0.0.1:"), "{before:?}");
        let PodChange::Started(after) = started else {
            panic!("{started:?}");
        };
        assert_eq!(
            (after.namespace.as_str(), after.name.as_str()),
            ("team-b", "after")
        );
        let PodChange::ContainerCreated {
            sandbox,
            uid,
            container,
            image,
        } = created
        else {
            panic!("{created:?}");
        };
        assert_eq!((sandbox, uid), (&after.sandbox, &after.uid));
        assert_eq!(container, "main");
        assert_eq!(image.as_ref(), Some(&before.images["main"]));
        let (sandbox, uid) = (after.sandbox.clone(), after.uid.clone());
        assert_eq!(
            *stopped,
            PodChange::Stopped {
                sandbox: sandbox.clone(),
                uid: uid.clone()
            }
        );
        assert_eq!(*removed, PodChange::Removed { sandbox, uid });
        let other = pods.iter().find(|pod| pod.name == "stopped").unwrap();
        assert_eq!(
            *removed_too,
            PodChange::Removed {
                sandbox: other.sandbox.clone(),
                uid: other.uid.clone()
            }
        );
    }
}

#[test]
fn both_ways_to_tell_an_event_mean_the_same() {
    let sandbox = nri::PodSandbox {
        id: "s".to_owned(),
        uid: "u".to_owned(),
        ..Default::default()
    };
    let container = nri::Container {
        id: "c".to_owned(),
        pod_sandbox_id: "s".to_owned(),
        name: "main".to_owned(),
        annotations: [(IMAGE.to_owned(), "busybox:1".to_owned())].into(),
        ..Default::default()
    };
    for (event, method, happening) in [
        (nri::Event::RunPodSandbox, "RunPodSandbox", Happening::Started),
        (nri::Event::StopPodSandbox, "StopPodSandbox", Happening::Stopped),
        (
            nri::Event::RemovePodSandbox,
            "RemovePodSandbox",
            Happening::Removed,
        ),
        (
            nri::Event::PostCreateContainer,
            "PostCreateContainer",
            Happening::ContainerCreated,
        ),
    ] {
        let change = nri::StateChangeEvent {
            event: event as i32,
            pod: Some(sandbox.clone()),
            container: Some(container.clone()),
        }
        .encode_to_vec();
        // The calls of NRI 0.12 all look like this one.
        let own = nri::CreateContainerRequest {
            pod: Some(sandbox.clone()),
            container: Some(container.clone()),
        }
        .encode_to_vec();
        let (old, new) = (asked("StateChange", &change), asked(method, &own));
        assert_eq!(event_of(&old), event_of(&new));
        let (happened, pod, container) = event_of(&old);
        assert_eq!((happened, pod.uid.as_str()), (happening, "u"));
        assert_eq!(container.unwrap().image.as_deref(), Some("busybox:1"));
        assert_eq!(old.answer(), Some(Vec::new()));
        assert_eq!(new.answer(), Some(Vec::new()));
    }
}

#[test]
fn only_what_is_unknown_gets_no_consent() {
    for method in ["Shutdown", "CreateContainer", "UpdateContainer", "StopContainer"] {
        assert_eq!(asked(method, &[]).answer(), Some(Vec::new()));
    }
    // An event that a later version adds, or none at all.
    for event in [0, 4, 12, 13, 99, -1] {
        let message = nri::StateChangeEvent {
            event,
            ..Default::default()
        }
        .encode_to_vec();
        assert_eq!(asked("StateChange", &message).answer(), Some(Vec::new()));
    }
    assert_eq!(asked("ValidateContainerAdjustment", &[]).answer(), None);
    let elsewhere = ttrpc::Call {
        service: "other",
        method: "Configure",
        payload: &[],
    };
    assert_eq!(Asked::by(&elsewhere).answer(), None);
}

#[test]
fn the_answer_to_configure_subscribes_to_pods_and_changes_nothing() {
    let answer = asked("Configure", &[]).answer().unwrap();
    let answer = nri::ConfigureResponse::decode(answer.as_slice()).unwrap();
    assert_eq!(answer.events, 0b1_0111);
}

#[test]
fn a_synchronization_is_asked_on_as_long_as_there_is_more() {
    for more in [false, true] {
        let request = nri::SynchronizeRequest {
            more,
            ..Default::default()
        }
        .encode_to_vec();
        let answer = asked("Synchronize", &request).answer().unwrap();
        let answer = nri::SynchronizeResponse::decode(answer.as_slice()).unwrap();
        assert_eq!((answer.more, answer.update.len()), (more, 0));
    }
}

#[test]
fn containers_may_come_before_their_pods() {
    let container = nri::Container {
        pod_sandbox_id: "s".to_owned(),
        name: "main".to_owned(),
        annotations: [(IMAGE.to_owned(), "busybox:1".to_owned())].into(),
        ..Default::default()
    };
    let first = nri::SynchronizeRequest {
        pods: Vec::new(),
        containers: vec![container],
        more: true,
    };
    let second = nri::SynchronizeRequest {
        pods: vec![nri::PodSandbox {
            id: "s".to_owned(),
            ..Default::default()
        }],
        containers: Vec::new(),
        more: false,
    };
    let mut listing = Listing::default();
    assert_eq!(decode::part(&first.encode_to_vec(), &mut listing), Ok(true));
    assert_eq!(decode::part(&second.encode_to_vec(), &mut listing), Ok(false));
    let PodChange::Synchronized { pods, .. } = Inventory::of(listing).whole() else {
        panic!("not whole");
    };
    assert_eq!(pods[0].images["main"], "busybox:1");
}

#[test]
fn what_is_too_long_or_too_much_is_left_out_and_said() {
    let whole = |pods: Vec<nri::PodSandbox>, containers: Vec<nri::Container>| {
        let message = nri::SynchronizeRequest {
            pods,
            containers,
            more: false,
        }
        .encode_to_vec();
        let mut listing = Listing::default();
        decode::part(&message, &mut listing).unwrap();
        listing
    };
    let named = |id: String| nri::PodSandbox {
        id,
        ..Default::default()
    };
    // Without an id there is no telling which one it is.
    for id in [String::new(), "x".repeat(MAX_NAME + 1)] {
        let listing = whole(vec![named(id)], Vec::new());
        assert!(listing.cut && listing.pods.is_empty());
    }
    let listing = whole(vec![named("x".repeat(MAX_NAME))], Vec::new());
    assert!(!listing.cut);

    // A tenant chooses labels: too many of them make that pod incomplete, and not the node.
    let labels = (0..MAX_LABELS / 10).map(|n| (format!("key-{n:06}"), "value".to_owned()));
    let mut greedy = named("greedy".to_owned());
    greedy.labels = labels.collect();
    let listing = whole(vec![greedy], Vec::new());
    let pod = &listing.pods[0];
    assert!(pod.cut && !listing.cut);
    let kept: usize = pod
        .labels
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    assert!((MAX_LABELS - 20..=MAX_LABELS).contains(&kept), "{kept}");

    let container = |image: String| nri::Container {
        pod_sandbox_id: "s".to_owned(),
        name: "main".to_owned(),
        annotations: [(IMAGE.to_owned(), image)].into(),
        ..Default::default()
    };
    let listing = whole(Vec::new(), vec![container("x".repeat(MAX_IMAGE + 1))]);
    assert_eq!(listing.containers[0].image, None);
    let listing = whole(Vec::new(), vec![container("x".repeat(MAX_IMAGE))]);
    assert!(listing.containers[0].image.is_some());
}

#[test]
fn cri_lists_pods_as_nri_does() {
    let sandbox = |id: &str, state: cri::PodSandboxState| cri::PodSandbox {
        id: id.to_owned(),
        metadata: Some(cri::PodSandboxMetadata {
            name: format!("name-{id}"),
            uid: format!("uid-{id}"),
            namespace: "team-a".to_owned(),
            attempt: 0,
        }),
        state: state as i32,
        ..Default::default()
    };
    let container = |name: &str, asked: &str, named: &str| cri::Container {
        pod_sandbox_id: "a".to_owned(),
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: asked.to_owned(),
            user_specified_image: named.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let listing = list::listing(
        vec![
            sandbox("a", cri::PodSandboxState::SandboxReady),
            sandbox("b", cri::PodSandboxState::SandboxNotready),
        ],
        vec![
            container("by-id", "sha256:00", ""),
            container("by-kubelet", "sha256:00", "busybox:1"),
            container("by-hand", "busybox:2", ""),
        ],
    );
    let stopped = Pod {
        stopped: true,
        ..pod("b")
    };
    assert_eq!(listing.pods, [pod("a"), stopped]);
    let images: Vec<_> = listing
        .containers
        .iter()
        .map(|container| container.image.as_deref())
        .collect();
    assert_eq!(images, [None, Some("busybox:1"), Some("busybox:2")]);
    assert!(!listing.cut);
}

proptest! {
    #[test]
    fn pods_read_as_the_generated_types_write_them(
        texts in prop::collection::vec("\\PC{0,20}", 5),
        labels in prop::collection::btree_map("[a-z./]{1,10}", "\\PC{0,10}", 0..5),
        annotations in prop::collection::hash_map("[a-z]{1,5}", "\\PC{0,10}", 0..5),
        image in prop::option::of("[a-z:/]{1,20}"),
        noise in "\\PC{0,50}",
    ) {
        let [name, uid, namespace, container_name, id] = texts.try_into().unwrap();
        let id = format!("id{id}");
        let sandbox = nri::PodSandbox {
            id: id.clone(),
            name: name.clone(),
            uid: uid.clone(),
            namespace: namespace.clone(),
            labels: labels.clone().into_iter().collect(),
            annotations: annotations.clone(),
            runtime_handler: noise.clone(),
            pid: 4_000_000_000,
            ips: vec![noise.clone(); 2],
            linux: Some(nri::LinuxPodSandbox { cgroup_parent: noise.clone(), ..Default::default() }),
        };
        let container = nri::Container {
            id: noise.clone(),
            pod_sandbox_id: id.clone(),
            name: format!("c{container_name}"),
            annotations: annotations.into_iter().chain(image.clone().map(|image| (IMAGE.to_owned(), image))).collect(),
            env: vec![noise.clone(); 3],
            args: vec![noise],
            ..Default::default()
        };
        let request = nri::SynchronizeRequest { pods: vec![sandbox], containers: vec![container], more: false };
        let mut listing = Listing::default();
        prop_assert_eq!(decode::part(&request.encode_to_vec(), &mut listing), Ok(false));
        let wanted = Pod { sandbox: id.clone(), uid, namespace, name, labels, ..Pod::default() };
        prop_assert_eq!(&listing.pods, &[wanted]);
        let wanted = Container { sandbox: id, name: format!("c{container_name}"), image };
        prop_assert_eq!(&listing.containers, &[wanted]);
        prop_assert!(!listing.cut);
    }
}
