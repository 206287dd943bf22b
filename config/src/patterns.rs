//! Names and patterns of a policy. A pattern that can match nothing is a mistake, and a silent one would be a hole in
//! the policy, so each is refused here with the reason.

use magi_engine::ids::Digest;
use magi_engine::policy::Pattern;

use crate::problem::quoted;
use crate::values::{Refused, Scalar, refuse};

/// Characters that the name of a rule may have.
const MAX_RULE_NAME: usize = 100;
/// Bytes that a pattern for namespaces may have: a namespace has at most 63, and wildcards need little more.
const MAX_NAMESPACE: usize = 128;
/// Bytes that a pattern for images may have: a repository has at most 255 behind its host.
const MAX_IMAGE: usize = 512;
/// Bytes that a label may have: its key at most 317, its value 63.
const MAX_LABEL: usize = 512;
/// Stars in one pattern; each may cost a pass over the name.
const MAX_WILDCARDS: usize = 8;

/// The name of a rule.
#[derive(Debug)]
pub(crate) struct RuleName(pub(crate) String);

impl Scalar for RuleName {
    fn words() -> String {
        format!("text of 1 to {MAX_RULE_NAME} characters, unique")
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        let hint = format!("write {}", Self::words());
        if text.trim().is_empty() {
            return refuse("the name is empty", hint);
        }
        let characters = text.chars().count();
        if characters > MAX_RULE_NAME {
            return refuse(
                format!("the name has {characters} characters, {MAX_RULE_NAME} are allowed"),
                hint,
            );
        }
        if text.contains(char::is_control) || text.trim() != text {
            let message = format!("{} has control characters, or blanks around it", quoted(text));
            return refuse(message, "records and metrics show the name: keep it to one line");
        }
        Ok(Self(text.to_owned()))
    }
}

/// A pattern over namespaces of Kubernetes.
#[derive(Debug)]
pub(crate) struct NamespacePattern(pub(crate) Pattern);

impl Scalar for NamespacePattern {
    fn words() -> String {
        "a Kubernetes namespace; `*` stands for any characters, `?` for one".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        bounded(text, MAX_NAMESPACE)?;
        let strange = |c: &char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "-*?".contains(*c));
        if let Some(character) = text.chars().find(strange) {
            return refuse(
                format!(
                    "{} matches no namespace: none contains {}",
                    quoted(text),
                    quoted(&character.to_string())
                ),
                "namespaces have lower-case letters, digits and `-`; in a pattern `*` and `?` too",
            );
        }
        if text.chars().filter(|c| *c != '*').count() > 63 {
            return refuse(
                format!("{} matches no namespace", quoted(text)),
                "namespaces have at most 63 characters",
            );
        }
        Ok(Self(Pattern::new(text)))
    }
}

/// A label of a pod and a pattern over its values.
#[derive(Debug)]
pub(crate) struct LabelPattern {
    pub(crate) key: String,
    pub(crate) value: Pattern,
}

impl Scalar for LabelPattern {
    fn words() -> String {
        "a label as `key=value`; in the value `*` stands for any characters, `?` for one".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        bounded(text, MAX_LABEL)?;
        let Some((key, value)) = text.split_once('=') else {
            return refuse(
                format!("{} has no `=`", quoted(text)),
                "write `key=value`; `key=*` is any value",
            );
        };
        let strange = |c: &char| !(c.is_ascii_alphanumeric() || "-_./".contains(*c));
        if key.is_empty() || key.contains(|c: char| strange(&c)) {
            return refuse(
                format!("{} is no key of a label", quoted(key)),
                "keys have letters, digits, `-`, `_`, `.` and one `/`",
            );
        }
        if value.chars().any(|c| strange(&c) && !"*?".contains(c)) {
            return refuse(
                format!("{} matches no label's value", quoted(value)),
                "values have letters, digits, `-`, `_` and `.`; in a pattern `*` and `?` too",
            );
        }
        Ok(Self {
            key: key.to_owned(),
            value: Pattern::new(value),
        })
    }
}

/// The digest of a manifest or index.
#[derive(Debug)]
pub(crate) struct ImageDigest(pub(crate) Digest);

impl Scalar for ImageDigest {
    fn words() -> String {
        "a digest, such as `sha256:` and 64 hexadecimal digits".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        Digest::parse(text).map(Self).or_else(|_| {
            refuse(
                format!("{} is no digest", quoted(text)),
                "write `sha256:` and the 64 hexadecimal digits that the registry shows for the manifest",
            )
        })
    }
}

/// A registry's host, with its port if it has one.
#[derive(Debug)]
pub(crate) struct RegistryHost(pub(crate) String);

impl Scalar for RegistryHost {
    fn words() -> String {
        "a registry's host, such as `registry.example:5000`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        let strange = |c: char| !(c.is_ascii_alphanumeric() || ".-:[]".contains(c));
        if text.is_empty() || text.len() > MAX_LABEL || text.contains(strange) {
            return refuse(
                format!("{} is no registry's host", quoted(text)),
                format!("write {}", Self::words()),
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// A pattern over repositories, host included.
#[derive(Debug)]
pub(crate) struct ImagePattern(pub(crate) Pattern);

impl Scalar for ImagePattern {
    fn words() -> String {
        "a repository with its host, such as `registry.example/team/*`; `*` stands for any characters, `/` \
         included, `?` for one"
            .to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        bounded(text, MAX_IMAGE)?;
        let never = |why: &str| format!("{} matches no image: {why}", quoted(text));
        if text.contains("://") {
            return refuse(never("repositories have no scheme"), "begin with the host");
        }
        if text.contains('@') {
            return refuse(never("a rule covers repositories"), "leave the digest out");
        }
        let strange = |c: &char| !(c.is_ascii_alphanumeric() || "._-/:*?[]".contains(*c));
        if let Some(character) = text.chars().find(strange) {
            let why = format!("no repository contains {}", quoted(&character.to_string()));
            return refuse(
                never(&why),
                "only `*` and `?` are special; write one pattern per item",
            );
        }
        let Some((host, path)) = text.split_once('/') else {
            return without_path(text);
        };
        if path.contains(':') {
            return refuse(never("a rule covers repositories"), "leave the tag out");
        }
        if path.contains(|c: char| c.is_ascii_uppercase()) {
            return refuse(never("repositories are lower case"), "write it in lower case");
        }
        if path.contains(['[', ']']) {
            return refuse(
                never("no repository contains brackets"),
                "only `*` and `?` are special",
            );
        }
        let known_host = host == "localhost" || host.contains(['.', ':', '*', '?']);
        if !known_host {
            let hint = format!(
                "write the host too, such as `docker.io/{}`",
                text.trim_start_matches('/')
            );
            return refuse(never("it does not begin with a registry's host"), hint);
        }
        if path.is_empty() || path.starts_with('/') {
            return refuse(
                never("a repository is missing behind the host"),
                format!("did you mean `{host}/*`?"),
            );
        }
        if host == "docker.io" && !path.contains(['/', '*', '?']) {
            let hint = format!("did you mean `docker.io/library/{path}`?");
            return refuse(never("Docker Hub keeps it below `library`"), hint);
        }
        Ok(Self(Pattern::new(text)))
    }
}

/// A pattern without `/` matches something only if a wildcard stands for it.
fn without_path(text: &str) -> Result<ImagePattern, Refused> {
    if text.contains('*') {
        return Ok(ImagePattern(Pattern::new(text)));
    }
    let message = format!(
        "{} matches no image: repositories are written with their host",
        quoted(text)
    );
    let looks_like_host = text.contains(['.', ':']) || text == "localhost";
    let hint = if looks_like_host {
        format!("did you mean `{text}/*`?")
    } else {
        format!("did you mean `docker.io/library/{text}`?")
    };
    refuse(message, hint)
}

fn bounded(text: &str, most: usize) -> Result<(), Refused> {
    if text.is_empty() {
        return refuse("the pattern is empty", "write `*` to cover everything");
    }
    if text.len() > most {
        return refuse(
            format!("the pattern has {} bytes, {most} are allowed", text.len()),
            "shorten it with `*`",
        );
    }
    let wildcards = text.matches('*').count();
    if wildcards > MAX_WILDCARDS {
        let message = format!("the pattern has {wildcards} `*`, {MAX_WILDCARDS} are allowed");
        return refuse(message, "write several patterns instead");
    }
    Ok(())
}
