//! What a registry wants to know before it answers: `WWW-Authenticate`, by RFC 9110 §11.6.1.

use http::header::{HeaderMap, WWW_AUTHENTICATE};

/// A challenge that can be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token of the service at `realm`.
    /// Source: distribution's specification of token authentication.
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// The best challenge in the answer: a token before a password.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut found = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            for challenge in value.to_str().map(challenges).unwrap_or_default() {
                match challenge {
                    Self::Bearer { .. } => return Some(challenge),
                    Self::Basic => found = Some(challenge),
                }
            }
        }
        found
    }
}

/// The known challenges of one header line. What does not follow the grammar ends the list.
fn challenges(text: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((scheme, after)) = word(rest) else {
            return found;
        };
        let (mut realm, mut service) = (None, None);
        rest = after;
        // A parameter has an equals sign behind its name; what has none is the next challenge.
        while let Some((name, value, after)) = parameter(rest) {
            if name.eq_ignore_ascii_case("realm") {
                realm = Some(value);
            } else if name.eq_ignore_ascii_case("service") {
                service = Some(value);
            }
            rest = after;
        }
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if let Some(realm) = realm.filter(|_| scheme.eq_ignore_ascii_case("bearer")) {
            found.push(Challenge::Bearer { realm, service });
        }
    }
}

/// A token of the grammar, and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)))
        .unwrap_or(text.len());
    text.split_at_checked(end).filter(|(word, _)| !word.is_empty())
}

/// `name=value` or `name="value"`, and what follows it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = word(text.trim_start_matches([' ', '\t', ',']))?;
    let rest = rest.trim_start_matches([' ', '\t']).strip_prefix('=')?;
    let rest = rest.trim_start_matches([' ', '\t']);
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, rest) = word(rest)?;
        return Some((name, value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name, value, quoted.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn found(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
        }
        Challenge::from_headers(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        })
    }

    #[test]
    fn tokens_and_passwords_are_understood() {
        assert_eq!(
            found(&[
                r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a,b:pull""#
            ]),
            bearer("https://auth.example/token", Some("registry.example"))
        );
        assert_eq!(
            found(&[r#"bearer error="x", REALM = "a\"b\\c" "#]),
            bearer("a\"b\\c", None)
        );
        assert_eq!(found(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(found(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        assert_eq!(
            found(&[r#"Negotiate, Basic realm="x", Bearer realm=y"#]),
            bearer("y", None)
        );
        assert_eq!(
            found(&[r#"Basic realm="x""#, r#"Bearer realm="y""#]),
            bearer("y", None)
        );
    }

    #[test]
    fn what_is_neither_is_nothing() {
        for line in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer service=\"x\"",
            "Bearer realm",
            "Bearer realm=",
            "Bearer realm=\"x",
            "Bearer realm=\"x\\",
            "=,=,\"",
            "Digest realm=\"x\"",
        ] {
            assert_eq!(found(&[line]), None, "{line}");
        }
        assert_eq!(found(&[]), None);
    }
}
