//! Documents described once: the description reads them, and words the reference.
//!
//! A section is a struct whose fields name their key, their type and their default. Reading one reports every unknown
//! key and every wrong value, and goes on.

use crate::problem::{Mark, Problem, Sink, count, quoted};
use crate::tree::{Node, Value};

/// A section of a document, for the reference.
pub(crate) struct Section {
    pub(crate) about: &'static [&'static str],
    pub(crate) fields: Vec<Field>,
}

/// One key of a section.
pub(crate) struct Field {
    pub(crate) key: &'static str,
    pub(crate) about: &'static [&'static str],
    pub(crate) default: IfAbsent,
    pub(crate) accepts: Accepts,
}

#[cfg(test)]
impl Section {
    /// A document with every key, each with the default that the reference tells.
    pub(crate) fn written_out(&self) -> String {
        let mut text = String::new();
        self.write_out("", &mut text);
        text
    }

    fn write_out(&self, indent: &str, text: &mut String) {
        for field in &self.fields {
            match (&field.accepts, field.default) {
                (Accepts::Section(inner), _) => {
                    text.push_str(&format!("{indent}{}:\n", field.key));
                    inner.write_out(&format!("{indent}  "), text);
                }
                (_, IfAbsent::Yaml(yaml)) => text.push_str(&format!("{indent}{}: {yaml}\n", field.key)),
                (_, IfAbsent::Required | IfAbsent::Words(_)) => panic!("{} has no default", field.key),
            }
        }
    }
}

/// What holds when a key is left out.
#[derive(Clone, Copy)]
pub(crate) enum IfAbsent {
    /// The document is wrong.
    Required,
    /// As if this YAML were written.
    Yaml(&'static str),
    /// Something that no YAML says.
    Words(&'static str),
}

/// What may be written as a value.
pub(crate) enum Accepts {
    /// A scalar, described in words.
    Scalar(String),
    /// So many of these.
    List {
        item: Box<Accepts>,
        least: usize,
        most: usize,
    },
    /// A mapping.
    Section(Section),
}

/// A type that a node can be read as.
pub(crate) trait Read: Sized {
    /// What the reference says of it.
    fn accepts() -> Accepts;

    /// Reads `node`, which stands at `path`. `None` if it is wrong, which `sink` was told.
    fn read(node: &Node, path: &Path<'_>, sink: &mut Sink) -> Option<Self>;
}

/// A value read, and where it stands.
#[derive(Debug)]
pub(crate) struct Given<T> {
    pub(crate) value: T,
    pub(crate) mark: Mark,
}

/// What a document says of one key.
#[derive(Debug)]
pub(crate) enum Said<T> {
    /// Nothing.
    Absent,
    /// Something wrong, which was reported.
    Wrong,
    /// This.
    Given(Given<T>),
}

impl<T> Said<T> {
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(crate) fn given(&self) -> Option<&Given<T>> {
        match self {
            Self::Given(given) => Some(given),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(crate) fn value(self) -> Option<T> {
        match self {
            Self::Given(given) => Some(given.value),
            Self::Absent | Self::Wrong => None,
        }
    }
}

/// Where a value stands in a document's structure.
pub(crate) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

enum Step<'p> {
    Root,
    Key(&'p str),
    Item(usize),
}

impl<'p> Path<'p> {
    pub(crate) const ROOT: Path<'static> = Path {
        parent: None,
        step: Step::Root,
    };

    pub(crate) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    pub(crate) fn item(&'p self, index: usize) -> Path<'p> {
        Path {
            parent: Some(self),
            step: Step::Item(index),
        }
    }

    /// `rules[2].limits.image`
    pub(crate) fn text(&self) -> String {
        let parent = self.parent.map(Path::text).unwrap_or_default();
        match self.step {
            Step::Root => parent,
            Step::Key(key) if parent.is_empty() => key.to_owned(),
            Step::Key(key) => format!("{parent}.{key}"),
            Step::Item(index) => format!("{parent}[{index}]"),
        }
    }
}

/// Reads the keys of one mapping.
pub(crate) struct Keys<'n> {
    node: &'n Node,
    path: &'n Path<'n>,
    /// Known keys that misspelt ones probably mean: to call these missing as well would mislead.
    slips: Vec<&'n str>,
}

impl<'n> Keys<'n> {
    /// Takes a mapping; nothing at all counts as an empty one, as is left where all keys are commented out.
    pub(crate) fn of(node: &'n Node, path: &'n Path<'n>, known: &[&'n str], sink: &mut Sink) -> Option<Self> {
        match &node.value {
            Value::Null | Value::Map(_) => Some(Self {
                node,
                path,
                slips: Vec::new(),
            }),
            Value::Broken => None,
            Value::Text(_) | Value::List(_) => {
                let message = format!("expected a mapping, found {}", node.value.kind());
                sink.report(
                    &node.mark,
                    Problem::new(path.text(), message).hint(known_keys(known)),
                );
                None
            }
        }
    }

    pub(crate) fn take<T: Read>(&self, key: &str, default: IfAbsent, sink: &mut Sink) -> Said<T> {
        let Some(entry) = self.entries().iter().find(|entry| entry.key == key) else {
            if self.slips.contains(&key) {
                return Said::Wrong;
            }
            if matches!(default, IfAbsent::Required) {
                let problem = Problem::new(self.path.text(), format!("the key `{key}` is missing"));
                sink.report(&self.node.mark, problem.hint(format!("add `{key}:` here")));
            }
            return Said::Absent;
        };
        let path = self.path.key(key);
        match T::read(&entry.node, &path, sink) {
            Some(value) => Said::Given(Given {
                value,
                mark: entry.node.mark.clone(),
            }),
            None => Said::Wrong,
        }
    }

    /// Reports every key that is not one of `known`.
    pub(crate) fn refuse_unknown(&mut self, known: &[&'n str], section: fn() -> Accepts, sink: &mut Sink) {
        for entry in self.entries() {
            if known.contains(&entry.key.as_str()) {
                continue;
            }
            let mut problem = Problem::new(self.path.text(), format!("unknown key {}", quoted(&entry.key)));
            if !sink.is_full() {
                let meant = closest(&entry.key, known);
                self.slips.extend(meant);
                problem = problem.hint(hint_for(&entry.key, meant, known, section));
            }
            sink.report(&entry.key_mark, problem);
        }
    }

    fn entries(&self) -> &'n [crate::tree::Entry] {
        match &self.node.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Text(_) | Value::List(_) | Value::Broken => &[],
        }
    }
}

fn hint_for(key: &str, meant: Option<&str>, known: &[&str], section: fn() -> Accepts) -> String {
    if key == "<<" {
        return "merge keys are not followed: write the keys out".to_owned();
    }
    if let Some(meant) = meant {
        return format!("did you mean `{meant}`?");
    }
    // The right word one level too high is as common as a slip of the finger.
    if let Accepts::Section(section) = section() {
        for field in &section.fields {
            let Accepts::Section(child) = &field.accepts else {
                continue;
            };
            if child.fields.iter().any(|inner| inner.key == key) {
                return format!("did you mean `{key}` within `{}`?", field.key);
            }
        }
    }
    known_keys(known)
}

fn known_keys(known: &[&str]) -> String {
    format!("known keys here are {}", list(known))
}

/// `` `a`, `b`, `c` ``
pub(crate) fn list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The word of `known` that was probably meant.
pub(crate) fn closest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let letters = word.chars().count();
    if letters > 40 {
        return None;
    }
    let lower = word.to_lowercase();
    known
        .iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()),
                *candidate,
            )
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance * 3 <= letters.max(candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// A list of `LEAST` to `MOST` values, each with its index in the document.
#[derive(Debug)]
pub(crate) struct List<T, const LEAST: usize, const MOST: usize>(pub(crate) Vec<(usize, Given<T>)>);

impl<T: Read, const LEAST: usize, const MOST: usize> Read for List<T, LEAST, MOST> {
    fn accepts() -> Accepts {
        Accepts::List {
            item: Box::new(T::accepts()),
            least: LEAST,
            most: MOST,
        }
    }

    fn read(node: &Node, path: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        let items: &[Node] = match &node.value {
            Value::List(items) => items,
            Value::Null => &[],
            Value::Broken => return None,
            Value::Text(_) | Value::Map(_) => {
                let message = format!("expected a list, found {}", node.value.kind());
                let hint = "write `[one, two]`, or one item per line behind `- `";
                sink.report(&node.mark, Problem::new(path.text(), message).hint(hint));
                return None;
            }
        };
        if items.len() < LEAST {
            let problem = Problem::new(path.text(), "the list is empty");
            sink.report(&node.mark, problem.hint("leave the key out, or give it an item"));
            return None;
        }
        if let Some(first_over) = items.get(MOST) {
            let message = format!("{} are given, {MOST} are allowed", count(items.len(), "item"));
            let problem = Problem::new(path.text(), message);
            sink.report(
                &first_over.mark,
                problem.hint("this is the first one too many; use patterns with `*`"),
            );
        }
        let mut read = Vec::new();
        for (index, item) in items.iter().enumerate().take(MOST) {
            if let Some(value) = T::read(item, &path.item(index), sink) {
                read.push((
                    index,
                    Given {
                        value,
                        mark: item.mark.clone(),
                    },
                ));
            }
        }
        Some(Self(read))
    }
}

/// Declares a section: a struct of [`Said`] fields, and how it is read and described.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        struct $name:ident {
            $(
                $(#[doc = $field_about:literal])+
                $key:literal $field:ident: $type:ty = $default:expr;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug)]
        pub(crate) struct $name {
            $(pub(crate) $field: $crate::schema::Said<$type>,)+
        }

        impl $crate::schema::Read for $name {
            fn accepts() -> $crate::schema::Accepts {
                use $crate::schema::IfAbsent::*;
                $crate::schema::Accepts::Section($crate::schema::Section {
                    about: &[$($about),+],
                    fields: vec![$($crate::schema::Field {
                        key: $key,
                        about: &[$($field_about),+],
                        default: $default,
                        accepts: <$type as $crate::schema::Read>::accepts(),
                    }),+],
                })
            }

            fn read(
                node: &$crate::tree::Node,
                path: &$crate::schema::Path<'_>,
                sink: &mut $crate::problem::Sink,
            ) -> Option<Self> {
                use $crate::schema::IfAbsent::*;
                let known = [$($key),+];
                let mut keys = $crate::schema::Keys::of(node, path, &known, sink)?;
                keys.refuse_unknown(&known, Self::accepts, sink);
                Some(Self { $($field: keys.take($key, $default, sink),)+ })
            }
        }
    };
}

pub(crate) use section;
