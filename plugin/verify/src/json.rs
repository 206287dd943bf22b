//! The little JSON that is needed: escaping what goes out, and finding a few values in what comes in.
//!
//! What comes in may be hostile, so the scanner takes the whole document as RFC 8259 writes it or not at all, has no
//! recursion, bounds the nesting, and copies nothing but the values that were asked for.

use std::fmt;

/// Deepest nesting that is followed; magi-node's answers need four.
const MAX_DEPTH: usize = 32;

/// A value that is no object and no array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
}

impl Scalar {
    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) => None,
        }
    }

    /// The whole number from 0 up, if it is one.
    pub(crate) fn whole(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.parse().ok(),
            Self::Null | Self::Bool(_) | Self::Text(_) => None,
        }
    }
}

/// Why a document is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not UTF-8.
    Encoding,
    /// Not JSON, from this byte on.
    Syntax(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    Depth,
    /// A value that was asked for stands there twice: each reader would take another one.
    Twice,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoding => f.write_str("not UTF-8"),
            Self::Syntax(at) => write!(f, "not JSON at byte {at}"),
            Self::Depth => write!(f, "nested deeper than {MAX_DEPTH}"),
            Self::Twice => f.write_str("a field stands there twice"),
        }
    }
}

/// `text` as a JSON string, with its quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..='\u{1f}' | '\u{7f}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

/// Reads a whole document and gives the scalars at the wanted places, each a path of keys from the top. `None` where
/// there is nothing, or no scalar.
pub(crate) fn find<const N: usize>(
    document: &[u8],
    wanted: [&[&str]; N],
) -> Result<[Option<Scalar>; N], Malformed> {
    let text = std::str::from_utf8(document).map_err(|_| Malformed::Encoding)?;
    let mut scanner = Scanner {
        text,
        at: 0,
        open: Vec::new(),
        wanted,
        found: std::array::from_fn(|_| None),
    };
    scanner.document()?;
    Ok(scanner.found)
}

/// An array or object that is not closed yet.
enum Open {
    Array,
    /// With the key of the member that is being read.
    Object(String),
}

struct Scanner<'d, const N: usize> {
    text: &'d str,
    at: usize,
    open: Vec<Open>,
    wanted: [&'d [&'d str]; N],
    found: [Option<Scalar>; N],
}

impl<const N: usize> Scanner<'_, N> {
    fn document(&mut self) -> Result<(), Malformed> {
        loop {
            self.blanks();
            // A value begins here: an opened array or object with something in it leads to its first value, everything
            // else is complete, and may complete what is around it.
            if !self.value()? && !self.after_value()? {
                break;
            }
        }
        self.blanks();
        if self.at == self.text.len() {
            Ok(())
        } else {
            Err(self.wrong())
        }
    }

    /// Reads a scalar, an empty array or object, or the beginning of one that has content; true for the last.
    fn value(&mut self) -> Result<bool, Malformed> {
        match self.peek() {
            Some(b'{') => {
                self.opened(Open::Object(String::new()))?;
                if self.take(b'}') {
                    self.open.pop();
                    return Ok(false);
                }
                self.key()?;
                Ok(true)
            }
            Some(b'[') => {
                self.opened(Open::Array)?;
                if self.take(b']') {
                    self.open.pop();
                    return Ok(false);
                }
                Ok(true)
            }
            Some(b'"') => {
                let text = self.string()?;
                self.scalar(Scalar::Text(text)).map(|()| false)
            }
            Some(b'-' | b'0'..=b'9') => {
                let number = self.number()?;
                self.scalar(Scalar::Number(number)).map(|()| false)
            }
            Some(_) | None => {
                let word = [
                    ("null", Scalar::Null),
                    ("true", Scalar::Bool(true)),
                    ("false", Scalar::Bool(false)),
                ]
                .into_iter()
                .find(|(word, _)| self.rest().starts_with(word));
                let (word, value) = word.ok_or_else(|| self.wrong())?;
                self.at += word.len();
                self.scalar(value).map(|()| false)
            }
        }
    }

    /// Goes on behind a complete value; whether another one follows.
    fn after_value(&mut self) -> Result<bool, Malformed> {
        loop {
            self.blanks();
            match self.open.last() {
                None => return Ok(false),
                Some(Open::Array) => {
                    if self.take(b',') {
                        return Ok(true);
                    }
                    self.must_take(b']')?;
                }
                Some(Open::Object(_)) => {
                    if self.take(b',') {
                        self.key()?;
                        return Ok(true);
                    }
                    self.must_take(b'}')?;
                }
            }
            self.open.pop();
        }
    }

    fn opened(&mut self, what: Open) -> Result<(), Malformed> {
        if self.open.len() == MAX_DEPTH {
            return Err(Malformed::Depth);
        }
        self.at += 1;
        self.open.push(what);
        self.blanks();
        Ok(())
    }

    /// Reads a key and its colon into the innermost object.
    fn key(&mut self) -> Result<(), Malformed> {
        self.blanks();
        let key = self.string()?;
        if let Some(open) = self.open.last_mut() {
            *open = Open::Object(key);
        }
        self.blanks();
        self.must_take(b':')
    }

    /// Keeps the value if somebody wants what stands here.
    fn scalar(&mut self, value: Scalar) -> Result<(), Malformed> {
        let Self {
            open, wanted, found, ..
        } = self;
        let here = |path: &[&str]| {
            path.len() == open.len()
                && path.iter().zip(open.iter()).all(|(step, open)| match open {
                    Open::Object(key) => key == step,
                    Open::Array => false,
                })
        };
        let place = wanted.iter().zip(found).find(|(path, _)| here(path));
        match place {
            None => Ok(()),
            Some((_, Some(_))) => Err(Malformed::Twice),
            Some((_, empty)) => {
                *empty = Some(value);
                Ok(())
            }
        }
    }

    fn string(&mut self) -> Result<String, Malformed> {
        self.must_take(b'"')?;
        let mut text = String::new();
        loop {
            let rest = self.rest();
            let plain = rest
                .find(|c| matches!(c, '"' | '\\' | '\0'..='\u{1f}'))
                .ok_or_else(|| self.wrong())?;
            text.push_str(rest.get(..plain).unwrap_or_default());
            self.at += plain;
            if self.take(b'"') {
                return Ok(text);
            }
            self.must_take(b'\\')?;
            text.push(self.escaped()?);
        }
    }

    /// What follows a backslash.
    fn escaped(&mut self) -> Result<char, Malformed> {
        let letter = self.peek().ok_or_else(|| self.wrong())?;
        let character = match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.wrong()),
        };
        self.at += 1;
        Ok(character)
    }

    /// `uXXXX`, or two of them that make one character.
    fn unicode(&mut self) -> Result<char, Malformed> {
        let first = self.utf16()?;
        if let Some(Ok(character)) = char::decode_utf16([first]).next() {
            return Ok(character);
        }
        self.must_take(b'\\')?;
        let second = self.utf16()?;
        match char::decode_utf16([first, second]).next() {
            Some(Ok(character)) => Ok(character),
            Some(Err(_)) | None => Err(self.wrong()),
        }
    }

    fn utf16(&mut self) -> Result<u16, Malformed> {
        self.must_take(b'u')?;
        let digits = self
            .rest()
            .get(..4)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.wrong())?;
        self.at += 4;
        Ok(unit)
    }

    fn number(&mut self) -> Result<String, Malformed> {
        let begin = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(self.text.get(begin..self.at).unwrap_or_default().to_owned())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let count = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        if count == 0 {
            return Err(self.wrong());
        }
        self.at += count;
        Ok(())
    }

    fn blanks(&mut self) {
        let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().bytes().take_while(blank).count();
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn must_take(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.wrong())
        }
    }

    fn wrong(&self) -> Malformed {
        Malformed::Syntax(self.at)
    }
}

#[cfg(test)]
mod tests;
