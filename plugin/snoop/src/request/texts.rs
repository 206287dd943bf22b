//! The texts of a request that are wanted, while they come.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::No;
use crate::{MAX_IMAGE, MAX_LABEL_BYTES, MAX_LABELS, MAX_POD_TEXT, Pod, PullRequest};

/// Which text it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Image,
    Name,
    Uid,
    Namespace,
    LabelKey,
    LabelValue,
}

/// Overwritten when it is dropped: of a message that is another call it may hold anything.
type Buffer = Zeroizing<Vec<u8>>;

#[derive(Default)]
pub(super) struct Texts {
    image: Option<Buffer>,
    name: Option<Buffer>,
    uid: Option<Buffer>,
    namespace: Option<Buffer>,
    label_key: Buffer,
    label_value: Buffer,
    labels: BTreeMap<String, String>,
    label_bytes: usize,
    /// There are too many labels, or one is no text.
    labels_void: bool,
}

impl Texts {
    /// Whether such a text came already. Those of labels may come any number of times.
    pub(super) fn has(&self, text: Text) -> bool {
        match text {
            Text::Image => self.image.is_some(),
            Text::Name => self.name.is_some(),
            Text::Uid => self.uid.is_some(),
            Text::Namespace => self.namespace.is_some(),
            Text::LabelKey | Text::LabelValue => false,
        }
    }

    /// A text of `length` bytes begins; whether it is wanted.
    pub(super) fn begin(&mut self, text: Text, length: u64) -> Result<bool, No> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        match text {
            Text::Image if bytes == 0 || bytes > MAX_IMAGE => return Err(No::OtherCall),
            Text::Name | Text::Uid | Text::Namespace if bytes > MAX_POD_TEXT => return Err(No::Unreadable),
            Text::LabelKey | Text::LabelValue => {
                self.label_bytes = self.label_bytes.saturating_add(bytes);
                if self.label_bytes > MAX_LABEL_BYTES {
                    self.forget_labels();
                }
                if self.labels_void {
                    return Ok(false);
                }
            }
            Text::Image | Text::Name | Text::Uid | Text::Namespace => {}
        }
        // At its full size at once: a buffer that grows would leave copies behind.
        let buffer = Buffer::new(Vec::with_capacity(bytes));
        match text {
            Text::Image => self.image = Some(buffer),
            Text::Name => self.name = Some(buffer),
            Text::Uid => self.uid = Some(buffer),
            Text::Namespace => self.namespace = Some(buffer),
            Text::LabelKey => self.label_key = buffer,
            Text::LabelValue => self.label_value = buffer,
        }
        Ok(true)
    }

    /// Takes the next bytes of a text that began.
    pub(super) fn push(&mut self, text: Text, bytes: &[u8]) -> Result<(), No> {
        let place = match text {
            Text::Image if !bytes.iter().all(u8::is_ascii_graphic) => return Err(No::OtherCall),
            Text::Image => self.image.as_mut(),
            Text::Name => self.name.as_mut(),
            Text::Uid => self.uid.as_mut(),
            Text::Namespace => self.namespace.as_mut(),
            Text::LabelKey => Some(&mut self.label_key),
            Text::LabelValue => Some(&mut self.label_value),
        };
        if let Some(place) = place {
            place.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Key and value of a label are there, or as much of them as it has.
    pub(super) fn end_label(&mut self) {
        let key = std::mem::take(&mut self.label_key);
        let value = std::mem::take(&mut self.label_value);
        match (std::str::from_utf8(&key), std::str::from_utf8(&value)) {
            (Ok(key), Ok(value)) if !self.labels_void && self.labels.len() < MAX_LABELS => {
                self.labels.insert(key.to_owned(), value.to_owned());
            }
            _ => self.forget_labels(),
        }
    }

    fn forget_labels(&mut self) {
        self.labels_void = true;
        self.labels.clear();
    }

    /// The request that they make.
    pub(super) fn finish(&mut self, attempt: u32) -> Result<PullRequest, No> {
        let Self {
            image,
            name,
            uid,
            namespace,
            labels,
            labels_void,
            ..
        } = std::mem::take(self);
        let image = text(&image.ok_or(No::OtherCall)?)?;
        let read = |part: Option<Buffer>| part.map_or_else(|| Ok(String::new()), |part| text(&part));
        let pod = Pod {
            uid: read(uid)?,
            name: read(name)?,
            namespace: read(namespace)?,
            attempt,
            labels: (!labels_void).then_some(labels),
        };
        let certain = !pod.uid.is_empty() && !pod.name.is_empty() && !pod.namespace.is_empty();
        Ok(PullRequest {
            image,
            pod: certain.then_some(pod),
            certain,
        })
    }

    /// Bytes that are kept.
    pub(super) fn held(&self) -> usize {
        let texts = [&self.image, &self.name, &self.uid, &self.namespace];
        let texts: usize = texts.into_iter().flatten().map(|text| text.capacity()).sum();
        texts + if self.labels_void { 0 } else { self.label_bytes }
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> Vec<u8> {
        let texts = [&self.image, &self.name, &self.uid, &self.namespace];
        let texts = texts
            .into_iter()
            .flatten()
            .chain([&self.label_key, &self.label_value]);
        let labels = self
            .labels
            .iter()
            .flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
        texts
            .map(|text| text.as_slice())
            .chain(labels)
            .flatten()
            .copied()
            .collect()
    }
}

/// A text without control characters.
fn text(bytes: &[u8]) -> Result<String, No> {
    let text = std::str::from_utf8(bytes).map_err(|_| No::OtherCall)?;
    if text.chars().any(char::is_control) {
        return Err(No::OtherCall);
    }
    Ok(text.to_owned())
}
