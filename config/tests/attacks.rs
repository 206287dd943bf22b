//! Documents and files made to hurt: each ends in an error, soon.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use magi_config::{
    ConfigError, MAX_FILE, ReadError, load_policy, load_settings, parse_policy, parse_settings,
};

/// The text is refused within a time in which nothing can have grown out of bounds, and some problem mentions `part`.
fn refused(text: &str, part: &str) {
    let started = std::time::Instant::now();
    let error = parse_policy("attack.yaml", text).expect_err("an attack was accepted");
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "took {:?}",
        started.elapsed()
    );
    assert!(
        error
            .problems()
            .iter()
            .any(|problem| problem.message.contains(part)),
        "{error}"
    );
    assert!(error.problems().len() <= 50);
    assert!(
        error.to_string().len() < 100_000,
        "the report has {} bytes",
        error.to_string().len()
    );
}

#[test]
fn billion_laughs() {
    let mut text = String::from("version: 1\na0: &a0 [lol]\n");
    for level in 1..30 {
        let above = format!("*a{}", level - 1);
        writeln!(text, "a{level}: &a{level} [{}]", [above.as_str(); 9].join(", ")).unwrap();
    }
    refused(&text, "aliases are not followed");
}

#[test]
fn an_alias_of_itself() {
    refused("version: 1\nrules: &a [*a]\n", "aliases are not followed");
}

#[test]
fn depth() {
    refused(
        &format!("version: 1\nrules: {}", "[".repeat(500_000)),
        "within one another",
    );
    refused(
        &format!("version: 1\nrules: {}", "{a: ".repeat(200_000)),
        "within one another",
    );
    refused(
        &format!("version: 1\nrules:\n{}", "- ".repeat(500_000)),
        "within one another",
    );
    let mut block = String::from("version: 1\n");
    for level in 0..1000 {
        writeln!(block, "{}a:", " ".repeat(level)).unwrap();
    }
    refused(&block, "within one another");
}

#[test]
fn many_keys() {
    let mut text = String::from("version: 1\n");
    for key in 0..80_000 {
        writeln!(text, "key{key}: 1").unwrap();
    }
    refused(&text, "unknown key");
    let shown = parse_policy("attack.yaml", &text).unwrap_err().to_string();
    assert!(shown.contains("has 80000 problems"), "{}", &shown[..100]);
    assert!(shown.ends_with("… and 79950 more"));
}

#[test]
fn one_key_many_times() {
    refused(
        &format!("version: 1\n{}", "mode: observe\n".repeat(70_000)),
        "given twice",
    );
}

#[test]
fn long_lines_and_long_scalars() {
    let long = "x".repeat(MAX_FILE - 100);
    refused(&format!("version: 1\nmode: {long}\n"), "is not known");
    refused(&format!("version: 1\n\"{long}\": 1\n"), "");
    refused(
        &format!("version: 1\nmode: \"{}\"\n", "\\x1b".repeat(200_000)),
        "is not known",
    );
    refused(
        &format!("version: 1\nmode: observe # {long}\nmode: observe\n"),
        "given twice",
    );
    refused(
        &format!("version: 1\nrules: [{}]\n", "{},".repeat(200_000)),
        "1000 are allowed",
    );
    refused(
        &format!("version: 1\nlimits: {{ image: {} }}\n", "9".repeat(500_000)),
        "larger than 2^64",
    );
}

#[test]
fn too_many_rules_and_patterns() {
    let rule = |index: usize| format!("  - {{ name: r{index}, match: {{ images: ['*'] }}, exempt: true }}\n");
    let rules = |count: usize| (0..count).map(rule).collect::<String>();
    assert_eq!(
        parse_policy("p", &format!("version: 1\nrules:\n{}", rules(1000)))
            .unwrap()
            .rules
            .len(),
        1000
    );
    refused(
        &format!("version: 1\nrules:\n{}", rules(1001)),
        "1001 items are given, 1000 are allowed",
    );
    let patterns = vec!["'*'"; 257].join(", ");
    let text = format!("version: 1\nrules: [{{ name: a, match: {{ images: [{patterns}] }}, exempt: true }}]");
    refused(&text, "257 items are given, 256 are allowed");
    let pattern = "*a".repeat(9);
    let text =
        format!("version: 1\nrules: [{{ name: a, match: {{ images: ['{pattern}'] }}, exempt: true }}]");
    refused(&text, "the pattern has 9 `*`, 8 are allowed");
}

#[test]
fn documents_have_a_bound() {
    let exact = format!("version: 1\n#{}", "x".repeat(MAX_FILE - 12));
    assert_eq!(exact.len(), MAX_FILE);
    parse_policy("p", &exact).unwrap();
    refused(&format!("{exact}x"), "1048576 are allowed");
}

fn step(error: ConfigError) -> String {
    assert_eq!(error.problems().len(), 1);
    let text = error.to_string();
    let ConfigError::Unreadable(unreadable) = error else {
        panic!("{text}")
    };
    assert!(text.contains(&unreadable.step().hint()), "{text}");
    assert!(
        text.contains(&unreadable.step().path().display().to_string()),
        "{text}"
    );
    text
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);

    let text = step(load_policy(&at("absent.yaml")).unwrap_err());
    assert!(
        text.contains("absent.yaml does not exist: write it, or name another file"),
        "{text}"
    );

    assert!(step(load_policy(folder.path()).unwrap_err()).contains("is a directory, not a file"));

    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(step(load_policy(&at("pipe")).unwrap_err()).contains("is a pipe, not a file"));

    let _listener = UnixListener::bind(at("socket")).unwrap();
    assert!(step(load_policy(&at("socket")).unwrap_err()).contains("is a socket or a device, not a file"));

    assert!(step(load_settings(Path::new("/dev/zero")).unwrap_err()).contains("is a device, not a file"));

    symlink(at("loop"), at("loop")).unwrap();
    assert!(step(load_policy(&at("loop")).unwrap_err()).contains("cannot be opened: the system says"));

    fs::write(at("large"), vec![b'#'; MAX_FILE + 1]).unwrap();
    assert!(step(load_policy(&at("large")).unwrap_err()).contains("is larger than 1048576 bytes"));

    fs::write(at("latin"), b"version: 1\nmode: \xe9\n").unwrap();
    let error = load_policy(&at("latin")).unwrap_err();
    let place = error.problems()[0].place.unwrap();
    assert_eq!((place.line, place.column), (2, 7));
    assert!(step(error).contains("is not UTF-8 text (line 2, column 7)"));
}

#[test]
fn a_link_to_a_file_is_followed() {
    // Kubernetes mounts every ConfigMap this way.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data"), "version: 1\n").unwrap();
    symlink("data", folder.path().join("policy.yaml")).unwrap();
    load_policy(&folder.path().join("policy.yaml")).unwrap();
}

#[test]
fn which_step_failed_can_be_asked() {
    let error = load_settings(Path::new("/nonexistent/settings.yaml")).unwrap_err();
    assert_eq!(error.file(), "/nonexistent/settings.yaml");
    let ConfigError::Unreadable(unreadable) = &error else {
        panic!("{error}")
    };
    assert!(matches!(unreadable.step(), ReadError::NotFound { .. }));
    assert!(parse_settings("s", "").is_ok());
}
