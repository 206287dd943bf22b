//! Who may post events: whoever has a client certificate that the TLS configuration accepts, or the bearer token.

use std::fmt;
use std::path::{Path, PathBuf};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The shortest token that is one.
const MIN_TOKEN: usize = 16;
/// The longest that is read.
const MAX_TOKEN: u64 = 4096;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file cannot be read.
    #[error("cannot read the webhook's token from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is shorter than one that cannot be guessed, or longer than any.
    #[error("the webhook's token must have between {MIN_TOKEN} and {MAX_TOKEN} bytes, without spaces")]
    Unfit,
}

/// A bearer token. Only its hash is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Of this text, without white space around it.
    ///
    /// # Errors
    /// It is no token.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let fits = text.len() >= MIN_TOKEN && text.len() as u64 <= MAX_TOKEN;
        if !fits || text.contains(char::is_whitespace) {
            return Err(TokenError::Unfit);
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Read from a file.
    ///
    /// # Errors
    /// It cannot be read, or holds no token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        use std::io::Read as _;
        let mut text = Zeroizing::new(String::new());
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_TOKEN + 2).read_to_string(&mut text))
            .map_err(|source| TokenError::Read {
                path: path.to_owned(),
                source,
            })?;
        Self::new(&text)
    }

    /// Hashes are compared, so how long that takes tells nothing about the token.
    fn is(&self, text: &str) -> bool {
        self.0 == <[u8; 32]>::from(Sha256::digest(text))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Who is let in. Without a token, only clients with certificates are.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The token, if there is one.
    pub token: Option<Token>,
}

impl Access {
    pub(super) fn lets_in(&self, headers: &HeaderMap, has_certificate: bool) -> bool {
        let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|text| text.split_once(' '));
        let bearer = sent.and_then(|(kind, text)| kind.eq_ignore_ascii_case("bearer").then_some(text.trim()));
        let has_token = match (&self.token, bearer) {
            (Some(token), Some(text)) => token.is(text),
            (Some(_) | None, _) => false,
        };
        has_certificate || has_token
    }
}
