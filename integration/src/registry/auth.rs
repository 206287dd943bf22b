//! Token authorisation as registries do it: a Bearer challenge, a token service, tokens that expire.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use super::content::digest_of;

/// Who may have a token, and for how long it is good.
#[derive(Debug, Clone)]
pub struct Auth {
    /// User and password that the token service asks for; `None` gives tokens to anybody.
    pub credentials: Option<(String, String)>,
    /// Life of a token.
    pub lifetime: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            credentials: None,
            lifetime: Duration::from_secs(300),
        }
    }
}

/// The tokens given out, with the repository each is for.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, (String, Instant)>>);

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Missing,
    Invalid,
}

impl Tokens {
    /// A new token for the repository named by a scope such as `repository:name:pull`.
    pub(super) fn issue(&self, scope: &str, lifetime: Duration) -> String {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Unlike any other, not unguessable: nobody here guesses.
        let token = digest_of(format!("token {} {scope}", tokens.len()).as_bytes()).replace(':', "-");
        let repository = scope
            .strip_prefix("repository:")
            .and_then(|rest| rest.rsplit_once(':'))
            .map_or("", |(name, _)| name);
        let entry = (repository.to_owned(), Instant::now() + lifetime);
        tokens.insert(token.clone(), entry);
        token
    }

    pub(super) fn check(&self, headers: &HeaderMap, repository: &str) -> Result<(), Refusal> {
        let token = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or(Refusal::Missing)?;
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match tokens.get(token) {
            Some((name, until)) if name == repository && Instant::now() < *until => Ok(()),
            _ => Err(Refusal::Invalid),
        }
    }
}

/// Decodes an `Authorization: Basic` header.
pub(super) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Basic ")?;
    let text = String::from_utf8(base64(value)?).ok()?;
    text.split_once(':')
        .map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// One parameter of a query or of a form.
pub(super) fn parameter(text: &str, name: &str) -> Option<String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| decode(value))
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                bytes.extend(hex::decode(digits).unwrap_or_default());
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut bits: u32 = 0;
    let mut count = 0;
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::HeaderMap;
    use hyper::header::{AUTHORIZATION, HeaderValue};

    use super::{Refusal, Tokens, basic, parameter};

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).expect("plain text"));
        headers
    }

    #[test]
    fn a_token_is_good_for_its_repository_until_it_expires() {
        let tokens = Tokens::default();
        let good = tokens.issue("repository:team/web:pull", Duration::from_secs(60));
        let old = tokens.issue("repository:team/web:pull", Duration::ZERO);
        assert_eq!(tokens.check(&with(&format!("Bearer {good}")), "team/web"), Ok(()));
        assert_eq!(
            tokens.check(&with(&format!("Bearer {good}")), "other"),
            Err(Refusal::Invalid)
        );
        assert_eq!(
            tokens.check(&with(&format!("Bearer {old}")), "team/web"),
            Err(Refusal::Invalid)
        );
        assert_eq!(tokens.check(&HeaderMap::new(), "team/web"), Err(Refusal::Missing));
    }

    #[test]
    fn credentials_and_parameters_are_decoded() {
        let found = basic(&with("Basic dXNlcjpwYXNzOndvcmQ="));
        assert_eq!(found, Some(("user".to_owned(), "pass:word".to_owned())));
        let query = "service=x&scope=repository%3Ateam%2Fweb%3Apull";
        assert_eq!(
            parameter(query, "scope").as_deref(),
            Some("repository:team/web:pull")
        );
        assert_eq!(parameter(query, "none"), None);
    }
}
