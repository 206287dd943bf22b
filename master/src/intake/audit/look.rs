//! The first look at a line, before anything is parsed: does it hold the words without which it cannot matter?
//!
//! A substring may only reject. An event that changes pods has `"ResponseComplete"` or `"Panic"` as its stage and
//! `"pods"`, `"bindings"` or `"namespaces"` as its resource; Go's encoder, which writes audit logs, writes plain letters
//! plainly (encoding/json, `appendString`), so those bytes are in the line. That they are says nothing.

use memchr::memmem::Finder;

#[derive(Debug)]
pub(super) struct Look {
    stages: [Finder<'static>; 2],
    resources: [Finder<'static>; 3],
}

impl Default for Look {
    fn default() -> Self {
        Self {
            stages: [Finder::new("\"ResponseComplete\""), Finder::new("\"Panic\"")],
            resources: [
                Finder::new("\"pods\""),
                Finder::new("\"namespaces\""),
                Finder::new("\"bindings\""),
            ],
        }
    }
}

impl Look {
    pub(super) fn may_matter(&self, line: &[u8]) -> bool {
        let any = |words: &[Finder<'_>]| words.iter().any(|word| word.find(line).is_some());
        any(&self.stages) && any(&self.resources)
    }
}
