//! The commands that ask the node.

use std::process::Stdio;

use magi_engine::action::Answer;
use magi_engine::event::Question;
use magi_engine::ids::PullId;
use magi_node_api::Request;
use serde_json::Value;

use crate::node::{FakeNode, NOW, pods, report, status};
use crate::run::{Running, magictl, on_terminal, outcome, read_lines};

fn ask(node: &FakeNode, arguments: &[&str]) -> (i32, String, String) {
    outcome(
        magictl(arguments)
            .env("MAGI_SOCKET", &node.socket)
            .output()
            .unwrap(),
    )
}

fn at_width(node: &FakeNode, width: &str, arguments: &[&str]) -> String {
    let output = magictl(arguments)
        .env("MAGI_SOCKET", &node.socket)
        .env("COLUMNS", width)
        .output()
        .unwrap();
    let (code, out, err) = outcome(output);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.chars()
            .all(|c| c == '\n' || c == '…' || (' '..='~').contains(&c)),
        "{out:?}"
    );
    if let Ok(width) = width.parse::<usize>() {
        assert!(out.lines().all(|line| line.chars().count() <= width), "{out}");
    }
    out
}

#[test]
fn the_table_fits_a_terminal_of_80_columns() {
    let node = FakeNode::with_pulls();
    insta::assert_snapshot!(at_width(&node, "80", &["pulls", "--ended"]));
    assert_eq!(
        node.heard.recv().unwrap(),
        Request::Question(Question::Pulls { ended: true })
    );
}

#[test]
fn layers_and_reasons_fit_too() {
    insta::assert_snapshot!(at_width(&FakeNode::with_pulls(), "80", &["pulls", "-v"]));
}

#[test]
fn a_pipe_gets_everything_uncut() {
    let node = FakeNode::with_pulls();
    insta::assert_snapshot!(at_width(&node, "", &["pulls", "--layers"]));
    assert_eq!(
        node.heard.recv().unwrap(),
        Request::Question(Question::Pulls { ended: false })
    );
}

#[test]
fn a_narrow_table_loses_columns_rather_than_wrap() {
    let node = FakeNode::with_pulls();
    for width in ["20", "21", "30", "40", "60", "79", "100", "120", "200"] {
        for arguments in [["pulls", "--ended"], ["pulls", "--layers"]] {
            assert!(at_width(&node, width, &arguments).contains("IMAGE"), "{width}");
        }
    }
}

#[test]
fn json_holds_the_whole_report_in_printable_ascii() {
    let (code, out, err) = ask(&FakeNode::with_pulls(), &["pulls", "--json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.trim_end_matches('\n')
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte)),
        "{out}"
    );
    let mut expected = serde_json::to_value(report()).unwrap();
    expected["now"] = serde_json::to_value(NOW).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
}

#[test]
fn a_terminal_gets_colours_unless_it_wants_none() {
    let node = FakeNode::with_pulls();
    let command = || magictl(&["--socket", node.address(), "pulls"]);
    let (code, coloured) = on_terminal(command(), "");
    assert_eq!(code, 0);
    assert!(
        coloured.contains("\u{1b}[36mdownloading\u{1b}[0m"),
        "{coloured:?}"
    );

    let mut without = command();
    without.env("NO_COLOR", "1");
    let (_, plain) = on_terminal(without, "");
    assert_eq!(plain, at_width(&node, "80", &["pulls"]));
}

#[test]
fn an_idle_node_says_so() {
    let node = FakeNode::answering(Answer::Pulls {
        report: magi_engine::report::Report::default(),
    });
    assert_eq!(
        ask(&node, &["pulls"]),
        (0, "No pull is in flight.\n".to_owned(), String::new())
    );
}

#[test]
fn watching_looks_again_and_ends_with_its_reader() {
    let node = FakeNode::with_pulls();
    let mut child = Running(
        magictl(&["--socket", node.address(), "pulls", "--json", "--watch=10ms"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let lines = read_lines(child.0.stdout.take().unwrap(), 3);
    assert_eq!(lines.len(), 3);
    assert!(
        lines
            .iter()
            .all(|line| line == &lines[0] && line.starts_with('{'))
    );
    // Its reader is gone by now, which is no failure.
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn watching_on_a_terminal_redraws_in_place_until_the_node_is_gone() {
    let node = FakeNode::with_pulls();
    let command = magictl(&["--socket", node.address(), "pulls", "--watch=10ms"]);
    let stopper = std::thread::spawn(move || {
        for _look in 0..3 {
            node.heard.recv().unwrap();
        }
        drop(node);
    });
    let (code, shown) = on_terminal(command, "");
    stopper.join().unwrap();
    assert_eq!(code, 3, "{shown:?}");
    assert_eq!(
        shown.matches("\u{1b}[2J").count(),
        1,
        "the canned texts' own are escaped"
    );
    assert!(
        shown.matches("\u{1b}[H").count() >= 2 && shown.contains("is magi-node running?"),
        "{shown:?}"
    );
}

#[test]
fn abort_says_what_became_of_the_pull_and_exits_accordingly() {
    let why = || "its socket\u{1b}[2J stays".to_owned();
    for (answer, code, out, err, json) in [
        (
            Answer::Ended,
            0,
            "p3 has ended.\n",
            "",
            r#"{"pull":3,"answer":"ended"}"#,
        ),
        (
            Answer::NoSuchPull,
            4,
            "",
            "error: no pull p3 is in flight; see `magictl pulls`\n",
            r#"{"pull":3,"answer":"no-such-pull"}"#,
        ),
        (
            Answer::StillRunning { why: why() },
            5,
            "",
            "error: p3 has not ended yet, magi-node goes on trying: its socket\\u{1b}[2J stays\n",
            r#"{"pull":3,"answer":"still-running","why":"its socket\u001b[2J stays"}"#,
        ),
        (
            Answer::Failed { why: why() },
            1,
            "",
            "error: p3 could not be stopped: its socket\\u{1b}[2J stays\n",
            r#"{"pull":3,"answer":"failed","why":"its socket\u001b[2J stays"}"#,
        ),
        (
            Answer::Busy,
            1,
            "",
            "error: too many questions wait for magi-node already; try again\n",
            r#"{"pull":3,"answer":"busy"}"#,
        ),
    ] {
        let node = FakeNode::answering(answer);
        assert_eq!(
            ask(&node, &["abort", "p3"]),
            (code, out.to_owned(), err.to_owned())
        );
        assert_eq!(
            ask(&node, &["abort", "3", "--json"]),
            (code, format!("{json}\n"), err.to_owned())
        );
        let Request::Question(Question::Abort { pull, actor }) = node.heard.recv().unwrap() else {
            panic!("no abort");
        };
        assert_eq!(pull, PullId(3));
        assert!(
            actor.starts_with(&format!("uid {}", rustix::process::geteuid().as_raw())),
            "{actor}"
        );
    }
}

#[test]
fn an_answer_to_another_question_fails() {
    let node = FakeNode::answering(Answer::Closed { count: 1 });
    let message = "error: magi-node answered something that was not asked\n".to_owned();
    assert_eq!(ask(&node, &["abort", "p3"]), (1, String::new(), message.clone()));
    assert_eq!(ask(&node, &["pulls"]), (1, String::new(), message));
}

#[test]
fn panic_needs_a_yes() {
    let node = FakeNode::answering(Answer::Closed { count: 7 });
    let (code, out, err) = ask(&node, &["panic"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.contains("every registry connection of containerd") && err.contains("--yes"),
        "{err}"
    );

    let command = || magictl(&["--socket", node.address(), "panic"]);
    for reply in ["n\n", "\n", "nyes\n", "\u{4}"] {
        let (code, shown) = on_terminal(command(), reply);
        assert_eq!(code, 1, "{reply:?} {shown}");
        assert!(shown.contains("not confirmed; nothing was done"), "{shown}");
    }
    assert!(node.heard.try_recv().is_err(), "nothing was asked so far");

    for reply in ["y\n", "Yes\n"] {
        let (code, shown) = on_terminal(command(), reply);
        assert_eq!(code, 0, "{shown}");
        assert!(
            shown.contains("Closed 7 registry connections of containerd."),
            "{shown}"
        );
        assert!(matches!(
            node.heard.recv().unwrap(),
            Request::Question(Question::Panic { .. })
        ));
    }
    let done = "Closed 7 registry connections of containerd.\n".to_owned();
    assert_eq!(ask(&node, &["panic", "--yes"]), (0, done, String::new()));
    let json = "{\"answer\":\"closed\",\"count\":7}\n".to_owned();
    assert_eq!(
        ask(&node, &["panic", "--yes", "--json"]),
        (0, json, String::new())
    );
}

#[test]
fn status_tells_how_the_node_does() {
    let node = FakeNode::with_pulls();
    let (code, out, err) = ask(&node, &["status"]);
    assert_eq!((code, err.as_str()), (0, ""));
    insta::assert_snapshot!(out);
    let (code, out, _) = ask(&node, &["status", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(
        serde_json::from_str::<magi_node_api::NodeStatus>(&out).unwrap(),
        status()
    );
}

#[test]
fn pods_are_listed_and_no_nri_is_no_empty_list() {
    let node = FakeNode::answering(Answer::Pods { pods: Some(pods()) });
    insta::assert_snapshot!(at_width(&node, "", &["pods"]));
    insta::assert_snapshot!(at_width(&node, "60", &["pods"]));
    for width in ["20", "33", "80", "200"] {
        assert!(at_width(&node, width, &["pods"]).contains("NAMESPACE"), "{width}");
    }
    let (code, out, _) = ask(&node, &["pods", "--json"]);
    assert_eq!(code, 0);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["pods"], serde_json::to_value(pods()).unwrap());

    let none = FakeNode::answering(Answer::Pods {
        pods: Some(Vec::new()),
    });
    assert_eq!(
        ask(&none, &["pods"]),
        (0, "No pod is on this node.\n".to_owned(), String::new())
    );
    let without = FakeNode::answering(Answer::Pods { pods: None });
    let (code, out, err) = ask(&without, &["pods"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("not connected to NRI"), "{err}");
}

#[test]
fn a_node_that_is_not_there_is_no_other_failure() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("node.sock");
    let address = socket.to_str().unwrap();
    for arguments in [
        &["pulls"][..],
        &["abort", "p1"],
        &["panic", "--yes"],
        &["status"],
        &["pods"],
    ] {
        let (code, out, err) = outcome(magictl(arguments).args(["--socket", address]).output().unwrap());
        assert_eq!((code, out.as_str()), (3, ""));
        let message = format!(
            "error: is magi-node running? its control socket is not at {address}; set --socket or MAGI_SOCKET\n"
        );
        assert_eq!(err, message);
    }
}

#[test]
fn usage_errors_exit_with_2_and_help_has_examples() {
    for arguments in [
        &[][..],
        &["dance"],
        &["abort"],
        &["abort", "x"],
        &["pull", "i", "--uid", "u"],
    ] {
        assert_eq!(
            outcome(magictl(arguments).output().unwrap()).0,
            2,
            "{arguments:?}"
        );
    }
    for command in ["pulls", "abort", "panic", "status", "pods", "doctor", "pull"] {
        let (code, help, _) = outcome(magictl(&[command, "--help"]).output().unwrap());
        assert_eq!(code, 0);
        assert!(
            help.contains("Examples:") && help.contains(&format!("magictl {command}")),
            "{help}"
        );
    }
    let (_, help, _) = outcome(magictl(&["--help"]).output().unwrap());
    assert!(
        help.contains("Exit codes:") && help.contains("[default: /run/magi/node.sock]"),
        "{help}"
    );
}
