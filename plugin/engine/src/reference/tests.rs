//! References that everybody writes, those of distribution's own cases, and texts that are none.

use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

const HEX: &str = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a";

fn full(text: &str) -> String {
    Reference::parse(text).map_or_else(
        |error| panic!("{text}: {error}"),
        |reference| reference.to_string(),
    )
}

fn wrong(text: &str) -> ReferenceError {
    Reference::parse(text).map_or_else(|error| error, |reference| panic!("{text} became {reference}"))
}

#[test]
fn short_names_are_completed() {
    for (text, completed) in [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("library/ubuntu", "docker.io/library/ubuntu:latest"),
        ("team/app", "docker.io/team/app:latest"),
        ("team/app/part:v1", "docker.io/team/app/part:v1"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("docker.io/library/foo/bar", "docker.io/library/foo/bar:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/team/app", "docker.io/team/app:latest"),
        (
            "library/ubuntu-12.04-base",
            "docker.io/library/ubuntu-12.04-base:latest",
        ),
        // A host is one only before a slash.
        ("docker.io", "docker.io/library/docker.io:latest"),
        ("localhost", "docker.io/library/localhost:latest"),
        ("test.com:5000", "docker.io/library/test.com:5000"),
        ("192.168.0.1:80", "docker.io/library/192.168.0.1:80"),
        ("foo_bar.com:8080", "docker.io/library/foo_bar.com:8080"),
        // A first component without dot, colon or capital is a folder of Docker Hub.
        ("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080"),
        ("test_com/foo", "docker.io/test_com/foo:latest"),
        ("lowercase:Uppercase", "docker.io/library/lowercase:Uppercase"),
    ] {
        assert_eq!(full(text), completed);
    }
}

#[test]
fn full_names_are_kept() {
    for (text, domain, path, tag) in [
        ("test.com/repo:tag", "test.com", "repo", "tag"),
        ("test:5000/repo", "test:5000", "repo", "latest"),
        ("test:5000/repo:tag", "test:5000", "repo", "tag"),
        ("localhost/repo", "localhost", "repo", "latest"),
        ("localhost:5000/a/b:x", "localhost:5000", "a/b", "x"),
        (
            "sub-dom1.foo.com/bar/baz/quux:some-long-tag",
            "sub-dom1.foo.com",
            "bar/baz/quux",
            "some-long-tag",
        ),
        (
            "b.gcr.io/test.example.com/my-app:test.example.com",
            "b.gcr.io",
            "test.example.com/my-app",
            "test.example.com",
        ),
        (
            "xn--n3h.com/myimage:xn--n3h.com",
            "xn--n3h.com",
            "myimage",
            "xn--n3h.com",
        ),
        ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", "5050"),
        ("[2001:db8::1]/repo", "[2001:db8::1]", "repo", "latest"),
        (
            "[2001:db8:1:2:3:4:5:6]/repo:tag",
            "[2001:db8:1:2:3:4:5:6]",
            "repo",
            "tag",
        ),
        ("[::1]:5000/repo:tag", "[::1]:5000", "repo", "tag"),
        // A capital before the first slash makes it a host, dot or not.
        ("Foo/bar", "Foo", "bar", "latest"),
        ("DOCKER/docker", "DOCKER", "docker", "latest"),
        ("Registry.Example/app", "Registry.Example", "app", "latest"),
        // No host by the grammar, but the one that containerd asks.
        ("my_registry.example/app:v1", "my_registry.example", "app", "v1"),
    ] {
        let reference = Reference::parse(text).unwrap();
        let got = (
            reference.domain(),
            reference.path(),
            reference.tag(),
            reference.digest(),
        );
        assert_eq!(got, (domain, path, Some(tag), None), "{text}");
        assert_eq!(reference.repository().as_str(), format!("{domain}/{path}"));
    }
}

#[test]
fn paths_may_have_separators_within() {
    for text in [
        "docker-rules/docker",
        "docker---rules/docker",
        "doc/docker",
        "d/docker",
        "jess/t",
        "dock__er/docker",
        "a.b/c_d",
        "thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev",
    ] {
        let with_library = if text.contains('/') { "" } else { "library/" };
        assert_eq!(
            full(text),
            format!("docker.io/{with_library}{text}:latest").replace("docker.io/a.b/", "a.b/")
        );
    }
    for text in [
        "-docker",
        "docker-",
        "-docker/docker",
        "docker-/docker",
        "-docker-/docker",
        "____/____",
        "_docker/_docker",
        "dock___er/docker",
        "x/dock..er",
        "x/dock_.er",
        "x/dock-.er",
        "x/dock._er",
        "x/a_-b",
        "docker///docker",
        "docker/",
        "/docker",
        "a//b",
        "docker.io/docker///docker",
        "aa/asdf$$^/aa",
        "https://github.com/docker/docker",
        "a b",
        " a",
        "a ",
        "a\n",
        "ä",
        "ä/b",
        "a/\u{130}",
        "a/b\0",
        "docker.io/",
        "localhost/",
        "a/.",
        "a/..",
        "a/../b",
    ] {
        let error = wrong(text);
        assert!(
            matches!(error, ReferenceError::Path { .. } | ReferenceError::Tag { .. }),
            "{text:?}: {error:?}"
        );
    }
}

#[test]
fn hosts_are_hosts() {
    for text in [
        "-docker.io/docker/docker",
        "docker-.io/x",
        "a..b/x",
        ".a/x",
        "a./x",
        "a:/x",
        "a:b/x",
        "a:5000x/x",
        ":5000/x",
        "a:1:2/x",
        "fc00::1:5000/debian",
        "[fe80::1%eth0]:5000/repo",
        "[2001:db8:3:4::192.0.2.33]:5000/debian",
        "[]:5/x",
        "[::1/x",
        "[::1]x/y",
        "[::1]:/x",
        "[::1]:a/x",
        "::1/x",
        "Ä/x",
        "dock..er/docker",
        "A_b/x",
        "user@host:5000/x",
        "repo:tag/x",
    ] {
        let error = wrong(text);
        assert!(
            matches!(error, ReferenceError::Domain { .. }),
            "{text:?}: {error:?}"
        );
    }
    for text in ["[2001:db8::1]", "[2001:db8::1]:5000", "[fc00::1]:tag"] {
        let error = wrong(text);
        assert!(
            matches!(error, ReferenceError::Path { .. }),
            "{text:?}: {error:?}"
        );
    }
}

#[test]
fn the_host_of_the_label_has_no_port() {
    for (text, host) in [
        ("a", "docker.io"),
        ("registry.example/a", "registry.example"),
        ("registry.example:5000/a", "registry.example"),
        ("127.0.0.1:5000/a", "127.0.0.1"),
        ("[::1]/a", "::1"),
        ("[2001:db8::1]:5000/a", "2001:db8::1"),
    ] {
        assert_eq!(Reference::parse(text).unwrap().domain_without_port(), host);
    }
}

#[test]
fn capitals_stand_in_hosts_and_tags_only() {
    for text in [
        "Uppercase:tag",
        "docker/Docker",
        "docker.io/docker/Docker",
        "test:5000/Uppercase/lowercase:tag",
        "A",
    ] {
        assert!(matches!(wrong(text), ReferenceError::Uppercase { .. }), "{text}");
    }
    assert_eq!(full("Uppercase/lowercase:tag"), "Uppercase/lowercase:tag");
}

#[test]
fn a_digest_wins_over_a_tag() {
    let (sha384, sha512) = (
        format!("sha384:{}", "0".repeat(96)),
        format!("sha512:{}", "f".repeat(128)),
    );
    for (text, completed) in [
        (
            format!("busybox@sha256:{HEX}"),
            format!("docker.io/library/busybox@sha256:{HEX}"),
        ),
        (
            format!("busybox:latest@sha256:{HEX}"),
            format!("docker.io/library/busybox@sha256:{HEX}"),
        ),
        (
            format!("test:5000/repo:tag@sha256:{HEX}"),
            format!("test:5000/repo@sha256:{HEX}"),
        ),
        (
            format!("[::1]:5000/repo:tag@sha256:{HEX}"),
            format!("[::1]:5000/repo@sha256:{HEX}"),
        ),
        (format!("a.b/c@{sha384}"), format!("a.b/c@{sha384}")),
        (
            format!("xn--7o8h.com/myimage:x@{sha512}"),
            format!("xn--7o8h.com/myimage@{sha512}"),
        ),
    ] {
        let reference = Reference::parse(&text).unwrap();
        assert_eq!(reference.to_string(), completed);
        assert_eq!(reference.tag(), None);
        assert!(completed.ends_with(reference.digest().unwrap().as_str()));
    }
}

#[test]
fn digests_are_of_known_algorithms_and_whole() {
    let short = "f".repeat(34);
    let upper = HEX.to_uppercase();
    for text in [
        format!("repo@sha256:{short}"),
        format!("validname@invaliddigest:{HEX}"),
        format!("a@SHA256:{HEX}"),
        format!("a@sha256:{upper}"),
        format!("a@md5:{}", "0".repeat(32)),
        format!("a@sha512:{HEX}"),
        format!("a@sha256:{HEX}0"),
        format!("a@sha256:{HEX}@sha256:{HEX}"),
        format!("a@sha256:{HEX}:tag"),
        "a@".into(),
        "a@sha256".into(),
        "a:tag@".into(),
    ] {
        assert!(matches!(wrong(&text), ReferenceError::Digest { .. }), "{text}");
    }
    assert!(matches!(
        wrong(&format!("@sha256:{HEX}")),
        ReferenceError::Path { .. }
    ));
}

#[test]
fn tags_are_words() {
    for text in [
        "a:",
        "a:-x",
        "a:.x",
        "a:b:c",
        "a:b c",
        "a:ä",
        "a:+",
        &format!("a:{}", "t".repeat(129)),
    ] {
        assert!(matches!(wrong(text), ReferenceError::Tag { .. }), "{text}");
    }
    let longest = format!("a:{}", "t".repeat(128));
    assert_eq!(full(&longest), format!("docker.io/library/{longest}"));
    assert_eq!(full("a:_x.-Y"), "docker.io/library/a:_x.-Y");
    assert!(matches!(wrong(":justtag"), ReferenceError::Path { .. }));
}

#[test]
fn an_image_id_is_no_reference() {
    assert!(matches!(wrong(HEX), ReferenceError::Identifier { .. }));
    assert_eq!(
        full(&format!("docker.io/{HEX}")),
        format!("docker.io/library/{HEX}:latest")
    );
    let shorter = &HEX[1..];
    assert_eq!(full(shorter), format!("docker.io/library/{shorter}:latest"));
    // With its algorithm it reads as the tag of a repository, and so containerd reads it where it wants a reference.
    assert_eq!(
        full(&format!("sha256:{HEX}")),
        format!("docker.io/library/sha256:{HEX}")
    );
}

#[test]
fn lengths_are_bounded() {
    assert_eq!(wrong(""), ReferenceError::Empty);
    assert_eq!(wrong(&"a".repeat(4097)), ReferenceError::TooLong { len: 4097 });
    let longest = "a/".repeat(127) + "a";
    assert_eq!(
        full(&format!("r.example/{longest}:tag")),
        format!("r.example/{longest}:tag")
    );
    assert_eq!(
        wrong(&format!("r.example/{longest}a")),
        ReferenceError::PathTooLong { len: 256 }
    );
    assert_eq!(wrong(&"b".repeat(248)), ReferenceError::PathTooLong { len: 256 });
    assert_eq!(
        full(&"b".repeat(247)).len(),
        "docker.io/".len() + 255 + ":latest".len()
    );
    // Where the host is none by the grammar, it counts.
    assert_eq!(
        wrong(&format!("a_b.c/{}", "d".repeat(250))),
        ReferenceError::PathTooLong { len: 256 }
    );
}

#[test]
fn errors_quote_little() {
    let error = wrong(&format!("{}!", "x".repeat(3000)));
    assert!(error.to_string().len() < 150, "{error}");
}

#[test]
fn it_is_a_text_to_serde() {
    let reference: Reference = serde_json::from_str("\"nginx\"").unwrap();
    assert_eq!(
        serde_json::to_string(&reference).unwrap(),
        "\"docker.io/library/nginx:latest\""
    );
    assert!(serde_json::from_str::<Reference>("\"Nginx\"").is_err());
}

/// The grammar as regular expressions, to be compared with the parser.
const HOST: &str = r"(localhost|[A-Za-z0-9]([A-Za-z0-9-]{0,5}[A-Za-z0-9])?(\.[a-z0-9]{1,4}){1,3}|\[[0-9a-f]{0,4}:[0-9a-f:]{0,5}\])(:[0-9]{1,5})?";
const PATH: &str = r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,5}){0,3}";
const TAG: &str = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}";

fn like(regex: &str) -> impl Strategy<Value = String> + use<> {
    prop::string::string_regex(regex).expect("a regular expression")
}

proptest! {
    #[test]
    fn what_the_grammar_makes_is_read_in_its_parts(host in like(HOST), path in like(PATH), tag in like(TAG)) {
        let reference = Reference::parse(&format!("{host}/{path}:{tag}")).unwrap();
        prop_assert_eq!(reference.domain(), host);
        prop_assert_eq!(reference.path(), path);
        prop_assert_eq!(reference.tag(), Some(tag.as_str()));
    }

    #[test]
    fn the_full_form_is_the_same_reference(
        text in like(&format!("({HOST}/)?{PATH}(:{TAG})?(@sha256:[0-9a-f]{{64}})?"))
    ) {
        let reference = Reference::parse(&text).unwrap();
        prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
        let json = serde_json::to_string(&reference).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Reference>(&json).unwrap(), &reference);
        prop_assert!(reference.tag().is_some() != reference.digest().is_some());
    }
}

/// Pieces of references, and what breaks them.
fn any_text() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "docker.io",
        "index.docker.io",
        "library",
        "localhost",
        "registry.example",
        "127.0.0.1",
        "[::1]",
        "team",
        "App",
        "a_b",
        "a__b",
        "a--b",
        "v1",
        "latest",
        "5000",
        "sha256:",
        "sha512:",
        HEX,
        "/",
        "/",
        ":",
        "@",
        ".",
        "_",
        "-",
        "[",
        "]",
    ]);
    let piece = prop_oneof![9 => word.prop_map(str::to_owned), 1 => r"\PC{0,3}", 1 => "[a-f0-9]{1,130}"];
    prop::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
}

/// Two seconds in the tests; `make fuzz` gives it minutes.
#[test]
fn fuzz_references() {
    let seconds =
        std::env::var("FUZZ_SECONDS").map_or(2, |text| text.parse().expect("FUZZ_SECONDS is a number"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut cases, mut references) = (0_u64, Cell::new(0_u64));
    let mut config = Config::with_cases(1000);
    config.failure_persistence = None;
    while cases == 0 || Instant::now() < end {
        cases += 1000;
        // One that ran is done for ever.
        let result = TestRunner::new(config.clone()).run(&any_text(), |text| {
            if let Ok(reference) = Reference::parse(&text) {
                references.set(references.get() + 1);
                let again = reference.to_string();
                prop_assert_eq!(&Reference::parse(&again).unwrap(), &reference);
                prop_assert!(!reference.domain().is_empty() && !reference.path().is_empty());
                prop_assert!(reference.path().len() <= MAX_REPOSITORY_PATH);
                prop_assert!(again.is_ascii() && !reference.domain_without_port().contains(['/', '[']));
            }
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }
    println!(
        "{cases} texts, {} of them references, in {seconds} s",
        references.get_mut()
    );
    assert!(
        *references.get_mut() > cases / 100,
        "the texts are too wild to say anything"
    );
}
