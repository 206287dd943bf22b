//! What containerd asks: arguments and a descriptor on standard input (containerd.md §16; 2.1.9,
//! pkg/imageverifier/bindir/bindir.go `runVerifier`).
//!
//! Image and digest come from the arguments. The descriptor adds media type and size, and both are the registry's own
//! words: what is odd in there must not keep the question from being asked, or a hostile registry could talk itself past
//! every denial.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::json;
use crate::verdict::doubt;

/// The only thing that is understood on standard input.
const DESCRIPTOR: &str = "application/vnd.oci.descriptor.v1+json";

/// Longest descriptor that is read, in bytes; containerd writes about 150.
const MAX_DESCRIPTOR: u64 = 64 << 10;

/// Longest media type that is passed on, in bytes. RFC 6838 §4.2 allows 127 for each half.
const MAX_MEDIA_TYPE: usize = 255;

/// One question of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// The reference as containerd resolved it.
    pub(crate) image: String,
    /// The digest of its manifest or index.
    pub(crate) digest: String,
    /// What the manifest or index is; empty if unknown.
    pub(crate) media_type: String,
    /// The size of the manifest or index in bytes, not of the image; 0 if unknown.
    pub(crate) size: u64,
}

/// Why this is no question of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotACall {
    /// This argument is missing.
    Missing(&'static str),
    /// This argument stands there twice.
    Twice(&'static str),
    /// This argument is not UTF-8.
    Encoding(&'static str),
}

impl fmt::Display for NotACall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not called as containerd calls an image verifier: ")?;
        match self {
            Self::Missing(flag) => write!(f, "no {flag}"),
            Self::Twice(flag) => write!(f, "{flag} twice"),
            Self::Encoding(flag) => write!(f, "{flag} is not UTF-8"),
        }
    }
}

impl Call {
    /// Reads arguments and standard input. Of the deadline, half may go by until standard input ends.
    pub(crate) fn hear(deadline: Duration) -> Result<Self, NotACall> {
        let (mut call, stdin_media_type) = Self::from_args(std::env::args_os().skip(1))?;
        if stdin_media_type.as_deref() == Some(DESCRIPTOR) {
            if let Err(problem) = read_stdin(deadline / 2).and_then(|bytes| call.describe(&bytes)) {
                doubt(&format!("size and media type are unknown: {problem}"));
            }
        } else {
            doubt("size and media type are unknown: standard input holds no descriptor");
        }
        Ok(call)
    }

    /// The arguments, and the media type of standard input. Flags of later versions are passed over.
    fn from_args(args: impl Iterator<Item = OsString>) -> Result<(Self, Option<String>), NotACall> {
        let (mut image, mut digest, mut stdin) = (None, None, None);
        let mut args = args;
        while let Some(arg) = args.next() {
            let (flag, place) = match arg.to_str() {
                Some("-name") => ("-name", &mut image),
                Some("-digest") => ("-digest", &mut digest),
                Some("-stdin-media-type") => ("-stdin-media-type", &mut stdin),
                Some(_) | None => continue,
            };
            let value = args.next().ok_or(NotACall::Missing(flag))?;
            let value = value.into_string().map_err(|_| NotACall::Encoding(flag))?;
            if place.replace(value).is_some() {
                return Err(NotACall::Twice(flag));
            }
        }
        let given = |value: Option<String>, flag| {
            value
                .filter(|value| !value.is_empty())
                .ok_or(NotACall::Missing(flag))
        };
        let call = Self {
            image: given(image, "-name")?,
            digest: given(digest, "-digest")?,
            media_type: String::new(),
            size: 0,
        };
        Ok((call, stdin))
    }

    /// Adds what the descriptor says.
    fn describe(&mut self, descriptor: &[u8]) -> Result<(), String> {
        let [media_type, digest, size] = json::find(descriptor, [&["mediaType"], &["digest"], &["size"]])
            .map_err(|problem| format!("the descriptor is {problem}"))?;
        if digest.as_ref().and_then(json::Scalar::text) != Some(&self.digest) {
            return Err("the descriptor is of another digest".to_owned());
        }
        let media_type = media_type
            .as_ref()
            .and_then(json::Scalar::text)
            .unwrap_or_default();
        if media_type.len() <= MAX_MEDIA_TYPE {
            media_type.clone_into(&mut self.media_type);
        }
        self.size = size.as_ref().and_then(json::Scalar::whole).unwrap_or(0);
        Ok(())
    }
}

/// Standard input, if it ends in time and within its bound.
fn read_stdin(patience: Duration) -> Result<Vec<u8>, String> {
    let (sender, receiver) = mpsc::channel();
    let reader = thread::Builder::new().spawn(move || {
        let mut bytes = Vec::new();
        let read = io::stdin()
            .lock()
            .take(MAX_DESCRIPTOR + 1)
            .read_to_end(&mut bytes);
        let _nobody_waits_any_more = sender.send(read.map(|_| bytes));
    });
    reader.map_err(|error| format!("no thread to read standard input on: {error}"))?;
    match receiver.recv_timeout(patience) {
        Ok(Ok(bytes)) if u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_DESCRIPTOR) => Ok(bytes),
        Ok(Ok(_)) => Err(format!("the descriptor has more than {MAX_DESCRIPTOR} bytes")),
        Ok(Err(error)) => Err(format!("standard input cannot be read: {error}")),
        Err(_) => Err(format!(
            "standard input has no end within {} ms",
            patience.as_millis()
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    const DIGEST: &str = "sha256:00";

    fn args(texts: &[&str]) -> Result<(Call, Option<String>), NotACall> {
        Call::from_args(texts.iter().map(OsString::from))
    }

    fn call() -> Call {
        args(&["-name", "r/x:1", "-digest", DIGEST]).unwrap().0
    }

    #[test]
    fn arguments_are_taken_as_containerd_writes_them_in_any_order() {
        let (call, stdin) = args(&[
            "-new-flag",
            "-stdin-media-type",
            DESCRIPTOR,
            "-digest",
            DIGEST,
            "-name",
            "r/x:1",
        ])
        .unwrap();
        assert_eq!((call.image.as_str(), call.digest.as_str()), ("r/x:1", DIGEST));
        assert_eq!(stdin.as_deref(), Some(DESCRIPTOR));
    }

    #[test]
    fn what_is_missing_twice_or_no_text_is_named() {
        for (texts, problem) in [
            (&[][..], NotACall::Missing("-name")),
            (&["-name"], NotACall::Missing("-name")),
            (&["-name", ""], NotACall::Missing("-name")),
            (&["-name", "x"], NotACall::Missing("-digest")),
            (&["-name", "x", "-digest"], NotACall::Missing("-digest")),
            (&["-digest", "d", "-digest", "e"], NotACall::Twice("-digest")),
        ] {
            assert_eq!(args(texts).unwrap_err(), problem, "{texts:?}");
        }
        let odd = ["-name".into(), OsString::from_vec(vec![0xff])];
        assert_eq!(
            Call::from_args(odd.into_iter()).unwrap_err(),
            NotACall::Encoding("-name")
        );
    }

    #[test]
    fn the_descriptor_adds_media_type_and_size() {
        let mut call = call();
        let text = format!(r#"{{"mediaType":"a/b\u002bc","digest":"{DIGEST}","size":423,"urls":["x"]}}"#);
        call.describe(text.as_bytes()).unwrap();
        assert_eq!((call.media_type.as_str(), call.size), ("a/b+c", 423));
    }

    #[test]
    fn an_odd_descriptor_leaves_both_unknown() {
        let long = format!(
            r#"{{"mediaType":"{}","digest":"{DIGEST}","size":-1}}"#,
            "x".repeat(256)
        );
        let mut described = call();
        described.describe(long.as_bytes()).unwrap();
        assert_eq!(described, call());
        for text in [
            "",
            "{}",
            "[]",
            "{\"digest\":\"sha256:11\",\"size\":1}",
            "{\"digest\":",
        ] {
            let mut described = call();
            assert!(described.describe(text.as_bytes()).is_err(), "{text}");
            assert_eq!(described, call(), "{text}");
        }
    }
}
