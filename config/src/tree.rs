//! YAML text as a tree in which everything knows its place.
//!
//! Read from the parser's events rather than through serde, which stops at the first duplicate key, forgets how a
//! scalar was written (`1.10` as a name) and places no key. What configuration has no use for (anchors, aliases,
//! tags, several documents) is refused, so no document grows beyond its text.

use std::collections::BTreeMap;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span};

use crate::problem::{Mark, Place, Problem, Sink, quoted};

/// Lists and mappings within one another; a policy needs five.
pub(crate) const MAX_DEPTH: usize = 16;

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) mark: Mark,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar, as it reads.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping.
    Map(Vec<Entry>),
    /// Something that was reported already.
    Broken,
}

/// One line of a mapping.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_mark: Mark,
    pub(crate) node: Node,
}

impl Value {
    /// What it is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
            Self::Broken => "something else",
        }
    }
}

/// Reads `text`; `None` if its syntax is wrong, which `sink` then tells. An empty document is [`Value::Null`].
pub(crate) fn read(text: &str, sink: &mut Sink) -> Option<Node> {
    let mut options = granit_parser::options! {
        emit_unresolved_aliases: true,
        emit_anchor_events: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    options.set_emit_comments(false);
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => builder.take(event, &span, sink),
            Err(error) => {
                report_syntax(&error, sink);
                Err(Stop)
            }
        };
        if step.is_err() {
            return None;
        }
    }
    Some(builder.root.unwrap_or(Node {
        mark: Mark::START,
        value: Value::Null,
    }))
}

/// The document cannot be read on; the reason was reported.
struct Stop;

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Frame>,
}

/// A list or mapping whose end has not come yet.
enum Frame {
    List {
        mark: Mark,
        items: Vec<Node>,
    },
    Map {
        mark: Mark,
        entries: Vec<Entry>,
        seen: BTreeMap<String, Place>,
        key: Key,
    },
}

/// What a mapping waits for.
enum Key {
    /// For a key.
    Awaited,
    /// For this key's value.
    Read(String, Mark),
    /// For the value of a key that was refused.
    Refused,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: &Span, sink: &mut Sink) -> Result<(), Stop> {
        let mark = mark_of(span);
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(..) => {
                if self.root.is_some() {
                    let problem = Problem::new("", "a second document begins here");
                    sink.report(&mark, problem.hint("remove it, and the `---` before it"));
                    return Err(Stop);
                }
            }
            Event::Scalar(text, style, _, tag) => {
                let node = match tag {
                    Some(_) => broken_by_tag(span, sink),
                    None => self.scalar(&text, style, mark),
                };
                self.add(node, sink);
            }
            Event::SequenceStart(_, _, tag) => {
                self.descend(&mark, sink)?;
                if tag.is_some() {
                    broken_by_tag(span, sink);
                }
                self.open.push(Frame::List {
                    mark,
                    items: Vec::new(),
                });
            }
            Event::MappingStart(_, _, tag) => {
                self.descend(&mark, sink)?;
                if tag.is_some() {
                    broken_by_tag(span, sink);
                }
                let (entries, seen) = (Vec::new(), BTreeMap::new());
                self.open.push(Frame::Map {
                    mark,
                    entries,
                    seen,
                    key: Key::Awaited,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.open.pop() {
                    Some(Frame::List { mark, items }) => Node {
                        mark,
                        value: Value::List(items),
                    },
                    Some(Frame::Map { mark, entries, .. }) => Node {
                        mark,
                        value: Value::Map(entries),
                    },
                    None => return Err(Stop),
                };
                self.add(node, sink);
            }
            Event::Anchor(..) => {
                let problem = Problem::new("", "anchors have no meaning here");
                sink.report(
                    &mark,
                    problem.hint("remove it; limits of the top level are inherited by every rule"),
                );
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                let problem = Problem::new("", "aliases are not followed");
                sink.report(
                    &mark,
                    problem.hint("write the value out, or put it in quotes if it begins with `*`"),
                );
                self.add(
                    Node {
                        mark,
                        value: Value::Broken,
                    },
                    sink,
                );
            }
            // They come only if asked for. The feature is on because kube-client turns it on for the whole build.
            Event::Comment(..) => {}
            other => {
                let problem = Problem::new("", format!("not understood: {}", quoted(&format!("{other:?}"))));
                sink.report(&mark, problem);
                return Err(Stop);
            }
        }
        Ok(())
    }

    /// The parser bounds brackets and indentation each on its own; this bounds both together.
    fn descend(&self, mark: &Mark, sink: &mut Sink) -> Result<(), Stop> {
        if self.open.len() < MAX_DEPTH {
            return Ok(());
        }
        sink.report(mark, too_deep());
        Err(Stop)
    }

    fn scalar(&self, text: &str, style: ScalarStyle, mark: Mark) -> Node {
        let plain = style == ScalarStyle::Plain;
        if !plain || !matches!(text, "" | "~" | "null" | "Null" | "NULL") {
            return Node {
                mark,
                value: Value::Text(text.to_owned()),
            };
        }
        // Where nothing is written, the key is what a person can be pointed to.
        let mark = match self.open.last() {
            Some(Frame::Map {
                key: Key::Read(_, key_mark),
                ..
            }) if text.is_empty() => key_mark.clone(),
            _ => mark,
        };
        Node {
            mark,
            value: Value::Null,
        }
    }

    /// Puts a whole node where it belongs.
    fn add(&mut self, node: Node, sink: &mut Sink) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map {
                entries, seen, key, ..
            }) => match std::mem::replace(key, Key::Awaited) {
                Key::Awaited => *key = key_from(node, seen, sink),
                Key::Read(text, key_mark) => entries.push(Entry {
                    key: text,
                    key_mark,
                    node,
                }),
                Key::Refused => {}
            },
        }
    }
}

fn key_from(node: Node, seen: &mut BTreeMap<String, Place>, sink: &mut Sink) -> Key {
    let text = match node.value {
        Value::Text(text) => text,
        Value::Broken => return Key::Refused,
        Value::Null | Value::List(_) | Value::Map(_) => {
            let problem = Problem::new("", format!("a key must be text, not {}", node.value.kind()));
            sink.report(&node.mark, problem);
            return Key::Refused;
        }
    };
    if let Some(first) = seen.get(&text) {
        let problem = Problem::new("", format!("the key {} is given twice", quoted(&text)));
        sink.report(
            &node.mark,
            problem.hint(format!(
                "the first one is in line {}: keep one of them",
                first.line
            )),
        );
        return Key::Refused;
    }
    seen.insert(text.clone(), node.mark.place);
    Key::Read(text, node.mark)
}

fn broken_by_tag(span: &Span, sink: &mut Sink) -> Node {
    let mark = mark_of(&span.tag_span().unwrap_or(*span));
    let problem = Problem::new("", "tags have no meaning here");
    sink.report(
        &mark,
        problem.hint("remove it, or put the value in quotes if it begins with `!`"),
    );
    Node {
        mark,
        value: Value::Broken,
    }
}

fn too_deep() -> Problem {
    Problem::new(
        "",
        format!("more than {MAX_DEPTH} lists and mappings within one another"),
    )
    .hint("no setting is that deep: look for a bracket that is not closed")
}

fn report_syntax(error: &ScanError, sink: &mut Sink) {
    let at = error.marker();
    let bytes = at.byte_offset().unwrap_or_default();
    let mark = Mark {
        place: place_of(at),
        bytes: bytes..bytes,
    };
    if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
        return sink.report(&mark, too_deep());
    }
    let problem = Problem::new("", format!("this is not YAML: {}", error.info()));
    use ErrorKind as Kind;
    let kind = error.kind();
    let hint = if matches!(
        kind,
        Kind::TabNotAllowed | Kind::TabInBlockIndentation | Kind::TabInIndentation
    ) {
        "indent with spaces"
    } else if matches!(kind, Kind::InvalidIndentation) {
        "give all keys of one mapping the same indentation"
    } else if matches!(kind, Kind::UnexpectedCharacter { .. }) {
        "remove it, or put the value in quotes"
    } else if matches!(
        kind,
        Kind::UnclosedFlowCollection { .. } | Kind::UnclosedQuotedScalar
    ) {
        "close it"
    } else {
        "look at this line and the one before it for a missing `:`, quote or bracket"
    };
    sink.report(&mark, problem.hint(hint));
}

fn mark_of(span: &Span) -> Mark {
    let start = span.start.byte_offset().unwrap_or_default();
    let end = span.end.byte_offset().unwrap_or(start);
    Mark {
        place: place_of(&span.start),
        bytes: start..end.max(start),
    }
}

fn place_of(marker: &Marker) -> Place {
    Place {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}
