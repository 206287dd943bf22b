//! `magictl pull`.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::containerd::{FakeContainerd, Fate, Seen};
use crate::run::{Running, magictl, on_terminal, outcome};

/// A bound for what must come at once; nothing waits for it unless the test fails.
const SOON: Duration = Duration::from_secs(20);

fn request(fake: &FakeContainerd) -> magi_wire::runtime::v1::PullImageRequest {
    match fake.seen.recv_timeout(SOON).unwrap() {
        Seen::Request(request) => *request,
        Seen::Cancelled => panic!("cancelled before it was asked"),
    }
}

fn pull(fake: &FakeContainerd, arguments: &[&str]) -> std::process::Command {
    let mut command = magictl(&["pull", "fake.example/app:1", "--containerd", fake.address()]);
    command.args(arguments);
    command
}

#[test]
fn the_image_id_is_printed() {
    let fake = FakeContainerd::new(Fate::Pulled("sha256:fake\u{1b}"));
    let (code, out, err) = outcome(pull(&fake, &[]).output().unwrap());
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "sha256:fake\\u{1b}\n", "")
    );
    let seen = request(&fake);
    assert_eq!(seen.image.unwrap().image, "fake.example/app:1");
    assert_eq!((seen.auth, seen.sandbox_config), (None, None));

    let (code, out, _) = outcome(pull(&fake, &["--json"]).output().unwrap());
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &json["image"], &json["image_ref"]),
        (0, &"fake.example/app:1".into(), &"sha256:fake\u{1b}".into())
    );
    assert!(json["seconds"].is_f64() && json.get("error").is_none(), "{out}");
}

#[test]
fn pod_and_credentials_are_passed_on_and_credentials_never_shown() {
    let fake = FakeContainerd::new(Fate::Refused("16", "no"));
    let mut command = pull(&fake, &["--pod", "team/app-0", "--uid", "1-2-3"]);
    let (_, out, err) = outcome(
        command
            .env("MAGI_REGISTRY_AUTH", "me:top:secret")
            .output()
            .unwrap(),
    );
    let seen = request(&fake);
    let metadata = seen.sandbox_config.unwrap().metadata.unwrap();
    assert_eq!(
        (
            metadata.namespace.as_str(),
            metadata.name.as_str(),
            metadata.uid.as_str()
        ),
        ("team", "app-0", "1-2-3")
    );
    let auth = seen.auth.unwrap();
    assert_eq!(
        (auth.username.as_str(), auth.password.as_str(), auth.auth.as_str()),
        ("me", "top:secret", "")
    );
    assert!(!format!("{out}{err}").contains("secret"));

    let mut command = pull(&fake, &[]);
    outcome(
        command
            .env("MAGI_REGISTRY_AUTH", "bWU6c2VjcmV0")
            .output()
            .unwrap(),
    );
    assert_eq!(request(&fake).auth.unwrap().auth, "bWU6c2VjcmV0");
}

#[test]
fn an_error_of_containerd_is_told() {
    let fake = FakeContainerd::new(Fate::Refused("5", "fake: not%1B found"));
    let (code, out, err) = outcome(pull(&fake, &[]).output().unwrap());
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        err,
        "error: containerd did not pull the image: fake: not\\u{1b} found (NotFound)\n"
    );

    let (code, out, _) = outcome(pull(&fake, &["--json"]).output().unwrap());
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 1);
    assert_eq!(
        json["error"],
        serde_json::json!({"code": "NotFound", "message": "fake: not\u{1b} found"})
    );
}

#[test]
fn an_interrupt_cancels_the_call() {
    let fake = FakeContainerd::new(Fate::Endless);
    let mut child = Running(
        pull(&fake, &[])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let _seen = request(&fake);
    kill_process(Pid::from_child(&child.0), Signal::INT).unwrap();
    assert!(matches!(fake.seen.recv_timeout(SOON).unwrap(), Seen::Cancelled));
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
}

#[test]
fn a_timeout_cancels_the_call_and_a_terminal_sees_progress() {
    let fake = FakeContainerd::new(Fate::Endless);
    let (code, shown) = on_terminal(pull(&fake, &["--timeout", "300ms"]), "");
    assert_eq!(code, 1);
    assert!(shown.contains("pulling fake.example/app:1  0s"), "{shown:?}");
    assert!(shown.contains("gave up after"), "{shown:?}");
    let _seen = request(&fake);
    assert!(matches!(fake.seen.recv_timeout(SOON).unwrap(), Seen::Cancelled));
}

#[test]
fn a_containerd_that_is_not_there_is_no_failed_pull() {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("none.sock");
    let output = magictl(&["pull", "x", "--containerd"])
        .arg(format!("unix://{}", address.display()))
        .output();
    let (code, out, err) = outcome(output.unwrap());
    assert_eq!((code, out.as_str()), (3, ""));
    assert_eq!(
        err,
        format!(
            "error: is containerd running? there is no {}; set --containerd\n",
            address.display()
        )
    );
}

#[test]
fn something_else_behind_the_socket_is_told_too() {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("other.sock");
    let listener = std::os::unix::net::UnixListener::bind(&address).unwrap();
    let other = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 ready\r\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Held open until the asker hangs up.
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    let output = magictl(&["pull", "x", "--containerd", address.to_str().unwrap()])
        .output()
        .unwrap();
    let (code, out, err) = outcome(output);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(
        err.starts_with("error: containerd did not pull the image: "),
        "{err}"
    );
    let _hung_up = other.join().unwrap();
}
