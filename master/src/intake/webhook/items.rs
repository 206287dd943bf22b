//! The events of a list, cut out of its JSON while it comes in.
//!
//! Only brackets and strings are followed; whether an event is good JSON is for its reader to find. At most one event is
//! held, of at most [`MAX_LINE`] bytes, and [`PIECE`] bytes of whole ones.
//!
//! Changed by: [`Items::feed`] and [`Items::take`].

use crate::intake::audit::MAX_LINE;

/// How many bytes of whole events are gathered before they are handed on.
pub(super) const PIECE: usize = 1 << 20;
/// The longest key at the top that is looked at.
const MAX_KEY: usize = 16;

/// Events of one body, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Events {
    /// Each event's JSON.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// The body is no JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAList;

#[derive(Debug, Default)]
pub(super) struct Items {
    depth: u32,
    is_in_string: bool,
    is_escaped: bool,
    /// The last string at the top: the key, until its value begins.
    key: Vec<u8>,
    is_in_items: bool,
    has_items: bool,
    is_over: bool,
    /// The event that is coming in, behind the whole ones.
    events: Events,
    begun_at: Option<usize>,
    is_skipping: bool,
    count: u64,
    too_long: u64,
}

impl Items {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), NotAList> {
        // Where the bytes begin that belong to an event and are not copied yet.
        let mut from = 0;
        for (at, byte) in bytes.iter().copied().enumerate() {
            if self.is_in_string {
                self.in_string(byte);
                continue;
            }
            match byte {
                b'"' => {
                    self.is_in_string = true;
                    if self.depth == 1 {
                        self.key.clear();
                    }
                }
                b'{' | b'[' => {
                    if self.is_over || (self.depth == 0 && byte == b'[') {
                        return Err(NotAList);
                    }
                    if self.depth == 1 && byte == b'[' && self.key == b"items" {
                        self.is_in_items = true;
                        self.has_items = true;
                    }
                    if self.depth == 2 && self.is_in_items && byte == b'{' {
                        self.begun_at = Some(self.events.bytes.len());
                        from = at;
                    }
                    self.depth = self.depth.checked_add(1).ok_or(NotAList)?;
                }
                b'}' | b']' => {
                    self.depth = self.depth.checked_sub(1).ok_or(NotAList)?;
                    match self.depth {
                        0 => self.is_over = true,
                        1 => self.is_in_items = false,
                        2 if self.is_in_items && self.begun_at.is_some() => {
                            self.copy(bytes.get(from..=at).unwrap_or_default());
                            self.end();
                        }
                        _ => {}
                    }
                }
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ if self.depth == 0 => return Err(NotAList),
                _ => {}
            }
        }
        if self.begun_at.is_some() {
            self.copy(bytes.get(from..).unwrap_or_default());
        }
        Ok(())
    }

    pub(super) fn has_a_piece(&self) -> bool {
        self.events.ends.last().is_some_and(|end| *end >= PIECE)
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.is_over && self.has_items
    }

    /// The whole events, which leaves the one that is coming in.
    pub(super) fn take(&mut self) -> Events {
        let whole = self.events.ends.last().copied().unwrap_or_default();
        let rest = self.events.bytes.split_off(whole);
        self.begun_at = self.begun_at.map(|_| 0);
        std::mem::replace(
            &mut self.events,
            Events {
                bytes: rest,
                ends: Vec::new(),
            },
        )
    }

    /// How many events there were, and how many were too long.
    pub(super) const fn counts(&self) -> (u64, u64) {
        (self.count, self.too_long)
    }

    fn in_string(&mut self, byte: u8) {
        if self.is_escaped {
            self.is_escaped = false;
        } else if byte == b'\\' {
            self.is_escaped = true;
        } else if byte == b'"' {
            self.is_in_string = false;
            return;
        }
        if self.depth == 1 && self.key.len() < MAX_KEY {
            self.key.push(byte);
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        let Some(begun_at) = self.begun_at.filter(|_| !self.is_skipping) else {
            return;
        };
        if self.events.bytes.len() - begun_at + bytes.len() > MAX_LINE {
            self.events.bytes.truncate(begun_at);
            self.is_skipping = true;
        } else {
            self.events.bytes.extend_from_slice(bytes);
        }
    }

    fn end(&mut self) {
        self.begun_at = None;
        if std::mem::take(&mut self.is_skipping) {
            self.too_long += 1;
        } else {
            self.count += 1;
            self.events.ends.push(self.events.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    //! Lists cut at every byte, and bodies that are none.

    use serde_json::json;

    use super::{Items, MAX_LINE};

    fn cut(body: &[u8], piece: usize) -> Option<Vec<String>> {
        let mut items = Items::default();
        let mut all = Vec::new();
        for piece in body.chunks(piece) {
            items.feed(piece).ok()?;
            let events = items.take();
            all.extend(
                events
                    .iter()
                    .map(|event| String::from_utf8(event.to_vec()).unwrap()),
            );
        }
        items.is_complete().then_some(all)
    }

    #[test]
    fn events_are_cut_out_wherever_the_pieces_end() {
        let events = [
            json!({"a": "}]\"\\", "items": [{"b": 1}]}),
            json!({}),
            json!({"c": [[], {"d": {}}], "é": "\n"}),
        ];
        let list =
            json!({"kind": "EventList", "metadata": {"items": [{"x": 1}]}, "items": events, "more": "items"});
        for body in [list.to_string(), serde_json::to_string_pretty(&list).unwrap()] {
            for piece in 1..body.len() + 1 {
                let found = cut(body.as_bytes(), piece).expect("a list");
                let found: Vec<serde_json::Value> = found
                    .iter()
                    .map(|event| serde_json::from_str(event).unwrap())
                    .collect();
                assert_eq!(found, events, "{piece}");
            }
        }
        assert_eq!(cut(br#"{"items":[]}"#, 3), Some(vec![]));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for body in [
            "",
            "[]",
            "{}",
            "x",
            "{\"items\":[{}]",
            "{\"items\":{}}",
            "{\"items\":[]}{}",
            "]",
            "\"items\"",
        ] {
            assert_eq!(cut(body.as_bytes(), 4), None, "{body}");
        }
    }

    #[test]
    fn an_event_that_is_too_long_is_skipped_and_not_held() {
        let mut items = Items::default();
        items.feed(br#"{"items":[{"a":1},{"b":""#).unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..(3 * MAX_LINE / piece.len()) {
            items.feed(&piece).unwrap();
            assert!(items.events.bytes.len() <= MAX_LINE + 100);
        }
        items.feed(br#""},{"c":2}]}"#).unwrap();
        let events = items.take();
        let found: Vec<&[u8]> = events.iter().collect();
        assert_eq!(found, [&br#"{"a":1}"#[..], br#"{"c":2}"#]);
        assert_eq!((items.counts(), items.is_complete()), ((2, 1), true));
    }
}
