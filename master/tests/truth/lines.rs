//! Audit lines as an API server writes them: recorded ones, about other pods and at other times.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const RECORDED_UID: &str = "737245ee-86fc-4d88-9a7e-34e1986135c4";
const RECORDED_IMAGES: [&str; 2] = ["127.0.0.1:5277/bb:1", "127.0.0.1:5277/bb:2"];

/// A pod that somebody makes, a scheduler binds, and somebody deletes.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) number: u32,
    pub(crate) node: &'static str,
}

impl Pod {
    pub(crate) fn name(&self) -> String {
        format!("app-{}", self.number)
    }

    pub(crate) fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.number)
    }

    /// The images of pods 1000 and above are one.
    pub(crate) fn image(&self) -> String {
        format!("registry.example.test/team/app:{}", self.number.min(1000))
    }
}

/// The recorded lines of one pod's life.
pub(crate) struct Recorded {
    created: String,
    bound: String,
    deleted: String,
}

impl Recorded {
    pub(crate) fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audit/03-kubelet-rr.jsonl.zst");
        let text = zstd::decode_all(&std::fs::read(path).unwrap()[..]).unwrap();
        let text = String::from_utf8(text).unwrap();
        let find = |verb: &str, subresource: Option<&str>| {
            let is_it = |line: &&str| {
                let event: Value = serde_json::from_str(line).unwrap();
                let about = &event["objectRef"];
                event["verb"] == verb
                    && event["stage"] == "ResponseComplete"
                    && about["resource"] == "pods"
                    && about["name"] == "r1"
                    && about["subresource"].as_str() == subresource
            };
            text.lines().find(is_it).expect("it was recorded").to_owned()
        };
        Self {
            created: find("create", None),
            bound: find("create", Some("binding")),
            deleted: find("delete", None),
        }
    }

    pub(crate) fn created(&self, pod: &Pod) -> String {
        about(&self.created, pod)
    }

    pub(crate) fn bound(&self, pod: &Pod) -> String {
        about(&self.bound, pod)
    }

    pub(crate) fn deleted(&self, pod: &Pod) -> String {
        about(&self.deleted, pod)
    }

    /// Its whole life, some time ago.
    pub(crate) fn life(&self, pod: &Pod, ago: SignedDuration) -> String {
        let at = Timestamp::now() - ago;
        let lines = [&self.created, &self.bound, &self.deleted];
        lines.map(|line| about_at(line, pod, at)).concat()
    }

    /// As at the level `Request`: uid, node and images stand in earlier lines only.
    pub(crate) fn deleted_tersely(&self, pod: &Pod) -> String {
        let line = about(&self.deleted, pod);
        let (start, rest) = line.split_once(",\"responseObject\":").unwrap();
        let (_, end) = rest.split_once(",\"requestReceivedTimestamp\":").unwrap();
        let start = start.replace("\"level\":\"RequestResponse\"", "\"level\":\"Request\"");
        format!("{start},\"requestReceivedTimestamp\":{end}")
    }
}

/// The line, about this pod and now, with its newline.
fn about(line: &str, pod: &Pod) -> String {
    about_at(line, pod, Timestamp::now())
}

fn about_at(line: &str, pod: &Pod, now: Timestamp) -> String {
    let mut text = line
        .replace(RECORDED_UID, &pod.uid())
        .replace("\"r1\"", &format!("\"{}\"", pod.name()))
        .replace("/pods/r1", &format!("/pods/{}", pod.name()))
        .replace("spike-node-1", pod.node);
    for image in RECORDED_IMAGES {
        text = text.replace(image, &pod.image());
    }
    for key in ["requestReceivedTimestamp", "stageTimestamp"] {
        text = stamped(&text, key, &format!("{now:.6}"));
    }
    stamped(&text, "creationTimestamp", &format!("{now:.0}")) + "\n"
}

/// With another time behind the first key of this name, if there is one.
fn stamped(text: &str, key: &str, time: &str) -> String {
    let key = format!("\"{key}\":\"");
    let Some((start, rest)) = text.split_once(&key) else {
        return text.to_owned();
    };
    let (_, end) = rest.split_once('"').unwrap();
    format!("{start}{key}{time}\"{end}")
}
