//! Who may have what: a docker `config.json`, as image pull secrets of Kubernetes hold it too.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use http::HeaderValue;
use serde::Deserialize;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Names under which Docker Hub's credentials are kept.
const DOCKER_HUB: [&str; 4] = [
    "docker.io",
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
];

/// Why there are no credentials. Nothing of the file is repeated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is longer than any honest one.
    #[error("{} has more than {MAX_FILE} bytes", path.display())]
    TooLong { path: PathBuf },
    /// Not JSON, or not docker's.
    #[error("{} is no docker configuration, at line {line}", path.display())]
    Malformed { path: PathBuf, line: usize },
    /// Reading was cut off.
    #[error("reading was interrupted")]
    Interrupted {
        #[source]
        source: io::Error,
    },
}

/// What is known of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: it is asked anonymously.
    Nothing,
    /// User and password.
    Basic(Basic),
    /// Only that this helper program knows them; it is not run.
    Helper(String),
}

/// User and password, as the `Authorization` header takes them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Basic(HeaderValue);

impl Basic {
    /// From base64 of `user:password`.
    fn new(encoded: &str) -> Option<Self> {
        let encoded = encoded.trim();
        let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=-_".contains(&b);
        if encoded.is_empty() || !encoded.bytes().all(is_base64) {
            return None;
        }
        let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// The header's value; marked, so that nothing prints it.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Basic(…)")
    }
}

/// The file's content.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    auths: BTreeMap<String, Basic>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
}

impl Credentials {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self, CredentialsError> {
        let failed = |source| CredentialsError::Read {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_FILE) {
            return Err(CredentialsError::TooLong {
                path: path.to_owned(),
            });
        }
        Self::parse(&bytes).map_err(|line| CredentialsError::Malformed {
            path: path.to_owned(),
            line,
        })
    }

    /// Reads the text, or says in which line it goes wrong; serde's own words could repeat a password.
    fn parse(bytes: &[u8]) -> Result<Self, usize> {
        let file: ConfigFile = serde_json::from_slice(bytes).map_err(|error| error.line())?;
        let auths = file.auths.into_iter().filter_map(|(name, entry)| {
            let basic = Basic::new(entry.auth.as_deref()?)?;
            Some((host(&name), basic))
        });
        let helpers = file.cred_helpers.into_iter();
        Ok(Self {
            auths: auths.collect(),
            helpers: helpers.map(|(name, helper)| (host(&name), helper)).collect(),
            store: file.creds_store.filter(|store| !store.is_empty()),
        })
    }

    /// What is known of the registry that an image's name begins with.
    pub(super) fn of(&self, domain: &str) -> Known {
        let domain = domain.to_ascii_lowercase();
        let names: Vec<&str> = if DOCKER_HUB.contains(&domain.as_str()) {
            DOCKER_HUB.to_vec()
        } else {
            vec![&domain]
        };
        if let Some(basic) = names.iter().find_map(|name| self.auths.get(*name)) {
            return Known::Basic(basic.clone());
        }
        let helper = names.iter().find_map(|name| self.helpers.get(*name));
        match helper.or(self.store.as_ref()) {
            Some(helper) => Known::Helper(helper.chars().take(80).collect()),
            None => Known::Nothing,
        }
    }
}

/// The host of a key, which may be a host or a whole address such as `https://index.docker.io/v1/`.
fn host(key: &str) -> String {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let host = key.split_once('/').map_or(key, |(host, _)| host);
    host.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base64 of `user:secret-word`.
    const AUTH: &str = "dXNlcjpzZWNyZXQtd29yZA==";

    fn credentials(text: &str) -> Credentials {
        Credentials::parse(text.as_bytes()).unwrap()
    }

    fn is_known(credentials: &Credentials, domain: &str) -> bool {
        matches!(credentials.of(domain), Known::Basic(_))
    }

    #[test]
    fn hosts_are_found_however_they_are_written() {
        let text = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{AUTH}"}},"Registry.Example:5000":{{"auth":"{AUTH}","email":"x"}},
            "http://plain.example/v2/":{{"auth":"{AUTH}"}},"empty.example":{{}},"broken.example":{{"auth":"a b"}}}},"psFormat":"x"}}"#
        );
        let credentials = credentials(&text);
        for domain in ["docker.io", "registry.example:5000", "plain.example"] {
            assert!(is_known(&credentials, domain), "{domain}");
        }
        for domain in ["registry.example", "empty.example", "broken.example", "example"] {
            assert_eq!(credentials.of(domain), Known::Nothing, "{domain}");
        }
    }

    #[test]
    fn a_helper_is_named_and_not_run() {
        let text = format!(
            r#"{{"auths":{{"a.example":{{"auth":"{AUTH}"}}}},"credHelpers":{{"b.example":"ecr-login"}},"credsStore":"pass"}}"#
        );
        let credentials = credentials(&text);
        assert!(is_known(&credentials, "a.example"));
        assert_eq!(credentials.of("b.example"), Known::Helper("ecr-login".to_owned()));
        assert_eq!(credentials.of("c.example"), Known::Helper("pass".to_owned()));
    }

    #[test]
    fn nothing_shows_a_secret() {
        let known = credentials(&format!(r#"{{"auths":{{"a.example":{{"auth":"{AUTH}"}}}}}}"#));
        let Known::Basic(basic) = known.of("a.example") else {
            panic!("not known")
        };
        let shown = format!(
            "{known:?} {:?} {:?} {basic:?}",
            known.of("a.example"),
            basic.header()
        );
        assert!(!shown.contains("dXNl") && !shown.contains("secret"), "{shown}");
        // A password where an object should be: serde would repeat it.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, r#"{"auths":{"a.example":"secret-word"}}"#).unwrap();
        let error = Credentials::read(&path).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret-word"), "{error:?}");
    }

    #[test]
    fn what_is_no_such_file_is_an_error() {
        for text in ["", "7", "{\"auths\":7}", "{\"auths\":{\"x\":{\"auth\":7}}}"] {
            assert!(Credentials::parse(text.as_bytes()).is_err(), "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        let missing = Credentials::read(&dir.path().join("none")).unwrap_err();
        assert!(matches!(missing, CredentialsError::Read { .. }));
        let long = Credentials::read(Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(long, CredentialsError::TooLong { .. }));
    }
}
