//! A verdict of the master in the contract's words; what the contract cannot carry is refused here.

use magi_engine::ids::ImageName;
use magi_master_api::bounds::{MAX_IMAGE_BYTES, MAX_IMAGES, MAX_POD, MAX_UID};
use magi_master_api::message::{self, VerdictId};
use sha2::{Digest, Sha256};

use crate::verdict::{Verdict, VerdictKind};

/// Why a verdict cannot be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsayable {
    /// Something is longer than the contract allows, and than the API server would.
    #[error("{field} has {len} bytes")]
    TooLong {
        /// What.
        field: &'static str,
        /// Its bytes.
        len: usize,
    },
    /// Its cause has no word.
    #[error("the cause has no word")]
    Cause,
}

/// Names the verdict: the same for everyone who says the same of the same pod.
///
/// When its images were replaced is part of it, because they can be put back and replaced again; a pod goes once.
#[must_use]
pub(super) fn id(verdict: &Verdict) -> VerdictId {
    let mut images: Vec<&str> = verdict.images.iter().map(ImageName::as_str).collect();
    images.sort_unstable();
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    match verdict.kind {
        VerdictKind::PodGone => add(b"pod-gone"),
        VerdictKind::ImagesReplaced => {
            add(b"images-replaced");
            add(&verdict.at.as_microsecond().to_le_bytes());
        }
    }
    add(cause(verdict).unwrap_or_default().as_bytes());
    add(verdict.uid.as_str().as_bytes());
    for image in images {
        add(image.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    VerdictId(id)
}

/// Splits a verdict with more images than one message carries; most are not split.
#[must_use]
pub(super) fn split(verdict: Verdict) -> Vec<Verdict> {
    let fits = |images: &[ImageName]| {
        images.len() <= MAX_IMAGES
            && images.iter().map(|image| image.as_str().len()).sum::<usize>() <= MAX_IMAGE_BYTES
    };
    if fits(&verdict.images) {
        return vec![verdict];
    }
    let mut pieces: Vec<Vec<ImageName>> = vec![Vec::new()];
    for image in verdict.images.iter().cloned() {
        if let Some(last) = pieces.last_mut() {
            last.push(image);
            if !fits(last)
                && let Some(over) = last.pop()
            {
                pieces.push(vec![over]);
            }
        }
    }
    pieces
        .into_iter()
        .map(|images| Verdict {
            images,
            ..verdict.clone()
        })
        .collect()
}

/// The verdict as message.
///
/// # Errors
/// The contract cannot carry it.
pub(super) fn message(verdict: &Verdict, number: u64, id: VerdictId) -> Result<message::Verdict, Unsayable> {
    let bounded = |field, text: &str, most: usize| {
        if text.len() > most {
            return Err(Unsayable::TooLong {
                field,
                len: text.len(),
            });
        }
        Ok(text.to_owned())
    };
    Ok(message::Verdict {
        number,
        id,
        at_micros: verdict.at.as_microsecond(),
        kind: match verdict.kind {
            VerdictKind::PodGone => message::VerdictKind::PodGone,
            VerdictKind::ImagesReplaced => message::VerdictKind::ImagesReplaced,
        },
        cause: cause(verdict).ok_or(Unsayable::Cause)?,
        uid: bounded("uid", verdict.uid.as_str(), MAX_UID)?,
        namespace: bounded("namespace", verdict.namespace.as_str(), MAX_POD)?,
        name: bounded("name", verdict.name.as_str(), MAX_POD)?,
        images: verdict
            .images
            .iter()
            .map(|image| image.as_str().to_owned())
            .collect(),
    })
}

/// The word that also stands in `magi-master replay`'s output.
fn cause(verdict: &Verdict) -> Option<String> {
    match serde_json::to_value(verdict.cause) {
        Ok(serde_json::Value::String(word)) => Some(word),
        Ok(_) | Err(_) => None,
    }
}
