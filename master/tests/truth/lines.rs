//! Audit lines as an API server writes them: recorded ones, about other pods and at other times.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

const RECORDED_UID: &str = "737245ee-86fc-4d88-9a7e-34e1986135c4";
const RECORDED_IMAGES: [&str; 2] = ["127.0.0.1:5277/bb:1", "127.0.0.1:5277/bb:2"];

/// A pod that somebody makes, a scheduler binds, and somebody deletes.
#[derive(Clone, Debug)]
pub struct Pod {
    pub number: u32,
    pub node: &'static str,
}

impl Pod {
    pub fn name(&self) -> String {
        format!("app-{}", self.number)
    }

    pub fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.number)
    }

    pub fn image(&self) -> String {
        format!("registry.example.test/team/app:{}", self.number)
    }
}

/// The recorded lines of one pod's life.
pub struct Recorded {
    created: String,
    bound: String,
    deleted: String,
}

impl Recorded {
    pub fn read() -> Self {
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

    pub fn created(&self, pod: &Pod) -> String {
        about(&self.created, pod).to_string() + "\n"
    }

    pub fn bound(&self, pod: &Pod) -> String {
        about(&self.bound, pod).to_string() + "\n"
    }

    pub fn deleted(&self, pod: &Pod) -> String {
        about(&self.deleted, pod).to_string() + "\n"
    }

    /// As at the level `Request`: uid, node and images stand in earlier lines only.
    pub fn deleted_tersely(&self, pod: &Pod) -> String {
        let mut event = about(&self.deleted, pod);
        event["level"] = "Request".into();
        event.as_object_mut().unwrap().remove("responseObject");
        event.to_string() + "\n"
    }
}

fn about(line: &str, pod: &Pod) -> Value {
    let mut text = line
        .replace(RECORDED_UID, &pod.uid())
        .replace("\"r1\"", &format!("\"{}\"", pod.name()))
        .replace("/pods/r1", &format!("/pods/{}", pod.name()))
        .replace("spike-node-1", pod.node);
    for image in RECORDED_IMAGES {
        text = text.replace(image, &pod.image());
    }
    let mut event: Value = serde_json::from_str(&text).unwrap();
    let now = Timestamp::now();
    event["requestReceivedTimestamp"] = format!("{now:.6}").into();
    event["stageTimestamp"] = format!("{now:.6}").into();
    let created = event.pointer_mut("/responseObject/metadata/creationTimestamp");
    if let Some(created) = created {
        *created = format!("{now:.0}").into();
    }
    event
}
