//! What the audit trail says of the soak's pulls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::attack::{Attack, Beside};
use crate::magi::{self, Magi};
use crate::wait;

const STEP: Duration = Duration::from_millis(100);

/// The repositories, without their host, that a record is about: where the pull comes from, or what was asked for where
/// that is known first.
fn names(record: &Value) -> BTreeSet<String> {
    let repositories = record.pointer("/pull/repositories").and_then(Value::as_array);
    let asked = record.pointer("/pull/owner/image");
    let named = repositories
        .into_iter()
        .flatten()
        .chain(asked)
        .filter_map(Value::as_str);
    named
        .filter_map(|name| name.rsplit('/').next()?.split([':', '@']).next())
        .map(ToOwned::to_owned)
        .collect()
}

/// Every digest in a record.
fn digests(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.starts_with("sha256:") => {
            found.insert(text.clone());
        }
        Value::Array(values) => values.iter().for_each(|value| digests(value, found)),
        Value::Object(members) => members.values().for_each(|value| digests(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The records, and which of them are about a name or a digest.
struct Trail {
    records: Vec<Value>,
    about: BTreeMap<String, Vec<usize>>,
}

impl Trail {
    fn read(magi: &Magi) -> Result<Self> {
        let records = magi.audit()?;
        let mut about = BTreeMap::<String, Vec<usize>>::new();
        for (index, record) in records.iter().enumerate() {
            let mut keys = names(record);
            digests(record, &mut keys);
            for key in keys {
                about.entry(key).or_default().push(index);
            }
        }
        Ok(Self { records, about })
    }

    fn of<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a Value> {
        let indices = self.about.get(key).into_iter().flatten();
        indices.filter_map(|index| self.records.get(*index))
    }

    /// Records of a kind that name an attack, or what nothing else consists of: it may have been stopped before anybody
    /// could say whose it is.
    fn of_attack<'a>(&'a self, attack: &'a Attack, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let keys = std::iter::once(&attack.repository).chain(&attack.digests);
        keys.flat_map(|key| self.of(key))
            .filter(move |record| record["kind"] == kind)
    }

    /// What is missing of an attack, in words.
    fn lacks(&self, attack: &Attack) -> Option<String> {
        let Some(reason) = attack.kind.reason() else {
            let told = self.of_attack(attack, "unpack-stopped").next();
            return told.is_none().then(|| "no unpack-stopped".to_owned());
        };
        if self.of_attack(attack, "intent").next().is_none() {
            return Some("no intent".to_owned());
        }
        if let Some(open) = magi::open_intents(&self.records)
            .find(|open| self.of_attack(attack, "intent").any(|its| its == *open))
        {
            return Some(format!("no outcome of attempt {}", open["attempt"]));
        }
        let other = self
            .of_attack(attack, "intent")
            .find(|intent| intent["reason"] != reason)?;
        Some(format!("an intent for {}, not {reason}", other["reason"]))
    }
}

/// Attacks without an intent of the right reason, or with an intent without outcome, once no more is written.
pub(super) async fn unaudited(magi: &Magi, attacks: &[Attack], bound: Duration) -> Result<Vec<String>> {
    let missing = || -> Result<Vec<String>> {
        let trail = Trail::read(magi)?;
        let lacks = attacks.iter().filter_map(|attack| {
            let lacks = trail.lacks(attack)?;
            Some(format!(
                "{} ({:?}): {lacks}; ended after {:?}: {}",
                attack.repository, attack.kind, attack.took, attack.told
            ))
        });
        Ok(lacks.collect())
    };
    let whole = wait::until("the audit trail to be whole", bound, STEP, async || {
        missing().ok()?.is_empty().then_some(())
    });
    // What is missing then is the answer.
    let _ = whole.await;
    missing()
}

/// Healthy pulls for which a lever was pulled.
pub(super) fn hit(magi: &Magi, beside: &[Beside]) -> Result<Vec<String>> {
    let trail = Trail::read(magi)?;
    let hit = beside.iter().filter_map(|pull| {
        let intent = trail
            .of(&pull.repository)
            .find(|record| record["kind"] == "intent")?;
        Some(format!("{}: {}", pull.repository, intent["reason"]))
    });
    Ok(hit.collect())
}
