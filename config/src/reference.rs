//! The reference of all documents, worded from their descriptions.

use std::fmt::Write as _;

use crate::master_document::RawMaster;
use crate::policy::RawPolicy;
use crate::schema::{Accepts, Field, IfAbsent, Read, Section};
use crate::settings_document::RawSettings;

/// The reference of all documents, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "# Reference of magi's configuration\n\n\
         <!-- Written by `MAGI_BLESS=1 cargo test -p magi-config --test reference`; change the descriptions in \
         `config/src`. -->\n\n\
         All documents are YAML 1.2, UTF-8, at most 1 MiB. Unknown keys, duplicate keys, anchors, aliases, merge keys \
         and tags are refused; everything that is wrong is reported at once. A scalar is taken as it reads: `name: 1.10` \
         and `name: \"1.10\"` are the same. A mapping with nothing in it counts as left out.\n",
    );
    document::<RawPolicy>(
        &mut text,
        "policy.yaml",
        &["examples/policy-minimal.yaml", "examples/policy-teams.yaml"],
    );
    document::<RawSettings>(
        &mut text,
        "settings.yaml of the node agent",
        &["examples/settings-node.yaml"],
    );
    document::<RawMaster>(
        &mut text,
        "master.yaml, settings of the master",
        &["examples/settings-master.yaml"],
    );
    text
}

fn document<R: Read>(text: &mut String, title: &str, examples: &[&str]) {
    let Accepts::Section(root) = R::accepts() else {
        return;
    };
    let links: Vec<String> = examples.iter().map(|file| format!("[{file}]({file})")).collect();
    // Writing to a string cannot fail.
    let _ = write!(text, "\n## {title}\n\nExamples: {}.\n", links.join(", "));
    section(text, "", &root);
}

fn section(text: &mut String, path: &str, this: &Section) {
    let about = joined(this.about);
    let _ = match path {
        "" => write!(text, "\n{about}\n"),
        _ => write!(text, "\n### `{path}`\n\n{about}\n"),
    };
    text.push_str("\n| key | value | if left out | meaning |\n|---|---|---|---|\n");
    for field in &this.fields {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            field.key,
            value(&field.accepts),
            if_absent(field.default),
            joined(field.about)
        );
    }
    for Field { key, accepts, .. } in &this.fields {
        let path = if path.is_empty() {
            (*key).to_owned()
        } else {
            format!("{path}.{key}")
        };
        match accepts {
            Accepts::Section(inner) => section(text, &path, inner),
            Accepts::List { item, .. } => {
                if let Accepts::Section(inner) = item.as_ref() {
                    section(text, &format!("{path}[]"), inner);
                }
            }
            Accepts::Scalar(_) => {}
        }
    }
}

fn value(accepts: &Accepts) -> String {
    match accepts {
        Accepts::Scalar(words) => words.clone(),
        Accepts::List { item, least: 0, most } => format!("a list of at most {most}: {}", value(item)),
        Accepts::List { item, least, most } => format!("a list of {least} to {most}: {}", value(item)),
        Accepts::Section(_) => "a mapping, see below".to_owned(),
    }
}

fn if_absent(default: IfAbsent) -> String {
    match default {
        IfAbsent::Required => "**required**".to_owned(),
        IfAbsent::Yaml(yaml) => format!("`{yaml}`"),
        IfAbsent::Words(words) => words.to_owned(),
    }
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}
