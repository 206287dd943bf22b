//! What is a pull, what may be one, and what is none.

use super::conversation::{field, number, sandbox, text};
use super::*;

/// What is seen of a call with this message, however it is cut; the same in all cases.
fn seen(message: &[u8]) -> Option<PullRequest> {
    let mut results = [1, 3, 16384].into_iter().map(|most| {
        let mut ear = connected();
        ear.client(&headers(1, 0));
        data(1, &grpc(message), most)
            .iter()
            .for_each(|frame| ear.client(frame));
        assert!(!ear.has_missed());
        assert_eq!(ear.snoop.held(), 0);
        let requests = ear.requests();
        assert!(requests.len() <= 1);
        requests.first().map(|request| (*request).clone())
    });
    let first = results.next().unwrap();
    assert!(results.all(|other| other == first));
    first
}

fn spec() -> Vec<u8> {
    field(1, &text(1, "registry.example/app"))
}

fn pod() -> Pod {
    Asked::for_pod("a", "web").pod.unwrap()
}

#[test]
fn requests_of_every_kind_of_client() {
    let plain = Asked::of("nginx");
    assert_eq!(seen(&plain.message()), Some(plain.request()));
    let mut with_auth = Asked::of("nginx:1@sha256:00");
    with_auth.password = Some("hunter2".into());
    assert_eq!(seen(&with_auth.message()), Some(with_auth.request()));
    let mut whole = Asked::for_pod("registry.example/app", "web");
    whole.password = Some("hunter2".into());
    whole.annotations = vec![(String::new(), String::new()), ("k".into(), "\u{1f433}".into())];
    whole.pod.as_mut().unwrap().attempt = 300;
    assert_eq!(seen(&whole.message()), Some(whole.request()));
    // Fields that CRI has got since, or may get.
    let newer = [
        text(1, "a"),
        text(18, "a"),
        text(19, "runc"),
        text(20, "x"),
        number(40, 1),
    ]
    .concat();
    let message = [field(1, &newer), field(3, &sandbox(&pod())), text(9, "new")].concat();
    assert_eq!(seen(&message).unwrap().pod, Some(pod()));
}

#[test]
fn a_pod_without_a_name_of_its_own_is_none() {
    for (name, uid, namespace) in [("", "u", "n"), ("p", "", "n"), ("p", "u", "")] {
        let part = Pod {
            name: name.into(),
            uid: uid.into(),
            namespace: namespace.into(),
            ..pod()
        };
        let request = seen(&[spec(), field(3, &sandbox(&part))].concat()).unwrap();
        assert_eq!((request.certain, request.pod), (false, None));
    }
    let request = seen(&[spec(), field(3, &[])].concat()).unwrap();
    assert_eq!((request.certain, request.pod), (false, None));
    assert_eq!(seen(&[spec(), text(9, "unknown, and no pod")].concat()), None);
}

#[test]
fn other_calls_are_not_mistaken() {
    let id = "0123456789abcdef".repeat(4);
    let others: [(&str, Vec<u8>); 26] = [
        ("ImageStatus, verbose", [spec(), number(2, 1)].concat()),
        (
            "RunPodSandbox",
            [field(1, &sandbox(&pod())), text(2, "runc")].concat(),
        ),
        (
            "CreateContainer",
            [text(1, &id), field(2, &spec()), field(3, &sandbox(&pod()))].concat(),
        ),
        ("ContainerStatus", text(1, &id)),
        ("ExecSync", [text(1, &id), text(2, "sh"), number(3, 5)].concat()),
        ("Status", number(1, 1)),
        ("Version", text(1, "v1")),
        ("ListImages", field(1, &spec())),
        ("UpdateRuntimeConfig", field(1, &field(1, &text(1, "10.0.0.0/8")))),
        ("ListContainers by state", field(1, &field(2, &number(1, 1)))),
        ("nothing", Vec::new()),
        ("an image without a name", field(1, &[])),
        ("an image with an empty name", field(1, &text(1, ""))),
        (
            "annotations first",
            field(1, &[field(2, &text(1, "k")), text(1, "a")].concat()),
        ),
        (
            "containerd's images.Create",
            field(1, &[text(1, "a"), field(3, &text(1, "type"))].concat()),
        ),
        (
            "containerd's containers.Create",
            field(1, &[text(1, "id"), text(3, "image"), text(4, "x")].concat()),
        ),
        ("two images", [spec(), spec()].concat()),
        (
            "two images in one",
            field(1, &[text(1, "a"), text(1, "b")].concat()),
        ),
        (
            "two pods",
            [spec(), field(3, &sandbox(&pod())), field(3, &sandbox(&pod()))].concat(),
        ),
        (
            "two uids",
            [
                spec(),
                field(3, &field(1, &[text(2, "u"), text(2, "v")].concat())),
            ]
            .concat(),
        ),
        ("two credentials", [spec(), text(2, ""), text(2, "")].concat()),
        ("pod first", [field(3, &sandbox(&pod())), spec()].concat()),
        ("a space in the image", field(1, &text(1, "a b"))),
        ("no ASCII in the image", field(1, &text(1, "ä"))),
        (
            "an image too long",
            field(1, &text(1, &"a".repeat(MAX_IMAGE + 1))),
        ),
        (
            "a control character in the pod",
            [spec(), field(3, &field(1, &text(1, "a\n")))].concat(),
        ),
    ];
    for (name, message) in others {
        assert_eq!(seen(&message), None, "{name}");
    }
}

#[test]
fn what_is_no_message_is_no_pull() {
    for message in [
        &[0x0a][..],
        &[0x0a, 0x80],
        &[0x0a, 5, 0x0a, 3, b'a', b'b', b'c', 0x00],
        // Inner lengths that reach beyond the outer.
        &[0x0a, 3, 0x0a, 3, b'a', b'b', b'c'],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        // Groups.
        &[0x0a, 5, 0x0a, 3, b'a', b'b', b'c', 0x23],
        // A key cut by the end of its message.
        &[0x0a, 6, 0x0a, 3, b'a', b'b', b'c', 0x92],
        // A number and fixed fields cut by the end.
        &[0x0a, 5, 0x0a, 3, b'a', b'b', b'c', 0x20],
        &[0x0a, 5, 0x0a, 3, b'a', b'b', b'c', 0x21, 1, 2, 3, 4, 5, 6, 7],
        &[0x0a, 5, 0x0a, 3, b'a', b'b', b'c', 0x25, 1, 2, 3],
    ] {
        assert_eq!(seen(message), None, "{message:02x?}");
    }
}

#[test]
fn labels_are_all_there_or_not_told() {
    let with = |labels: BTreeMap<String, String>| {
        let mut asked = Asked::for_pod("a", "web");
        asked.pod.as_mut().unwrap().labels = Some(labels);
        seen(&asked.message()).unwrap().pod.unwrap().labels
    };
    let many = |count: usize| -> BTreeMap<String, String> {
        (0..count).map(|n| (n.to_string(), String::new())).collect()
    };
    assert_eq!(with(many(0)), Some(many(0)));
    assert_eq!(with(many(MAX_LABELS)), Some(many(MAX_LABELS)));
    assert_eq!(with(many(MAX_LABELS + 1)), None);
    let long = |bytes: usize| BTreeMap::from([("k".to_owned(), "v".repeat(bytes - 1))]);
    assert_eq!(with(long(MAX_LABEL_BYTES)), Some(long(MAX_LABEL_BYTES)));
    assert_eq!(with(long(MAX_LABEL_BYTES + 1)), None);
    // Of equal keys the last counts, and an entry may lack either part, as in any protobuf map.
    let entries = [
        field(6, &[text(1, "k"), text(2, "1")].concat()),
        field(6, &[text(1, "k"), text(2, "2")].concat()),
    ];
    let config = [
        sandbox(&Pod {
            labels: None,
            ..pod()
        }),
        entries.concat(),
        field(6, &[]),
    ]
    .concat();
    let labels = seen(&[spec(), field(3, &config)].concat())
        .unwrap()
        .pod
        .unwrap()
        .labels
        .unwrap();
    assert_eq!(
        labels,
        BTreeMap::from([("k".into(), "2".into()), (String::new(), String::new())])
    );
    let broken = [sandbox(&pod()), field(6, &field(1, &[0xff]))].concat();
    assert_eq!(
        seen(&[spec(), field(3, &broken)].concat())
            .unwrap()
            .pod
            .unwrap()
            .labels,
        None
    );
}

#[test]
fn a_pod_of_endless_names_is_missed_and_not_cut() {
    let mut ear = connected();
    ear.client(&Client::pull(
        1,
        &Asked::for_pod("a", &"n".repeat(MAX_POD_TEXT + 1)),
    ));
    assert!(ear.has_missed());
    assert_eq!(ear.requests().len(), 0);
    assert_eq!(ear.snoop.counters().unreadable, 1);
}
