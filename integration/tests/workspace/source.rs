//! Rust source as tokens, so that no rule is fooled by comments and strings.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

use crate::files::File;

/// One token; brackets and `::` are tokens of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Token {
    fn new(text: impl Into<String>, line: usize) -> Self {
        Self {
            text: text.into(),
            line,
        }
    }

    fn is_word(&self) -> bool {
        self.text
            .starts_with(|first: char| first.is_alphabetic() || first == '_')
    }

    /// The content of a string literal, with its escapes as they stand.
    pub(crate) fn string(&self) -> Option<&str> {
        let text = self.text.trim_start_matches(['b', 'c', 'r', '#']);
        let inner = text.trim_end_matches('#').strip_prefix('"')?;
        inner.strip_suffix('"')
    }
}

/// The tokens of a Rust file, or a complaint.
pub(crate) fn tokens(file: &File) -> Result<Vec<Token>, String> {
    let stream: TokenStream = file
        .text
        .parse()
        .map_err(|error| format!("{}: cannot be read as Rust: {error}", file.path))?;
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    Ok(tokens)
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    let is_colon = |tree: &TokenTree| matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ':');
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let line = tree.span().start().line;
        match &tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token::new(open, line));
                flatten(group.stream(), tokens);
                tokens.push(Token::new(close, group.span_close().start().line));
            }
            TokenTree::Punct(punct)
                if punct.as_char() == ':'
                    && punct.spacing() == Spacing::Joint
                    && trees.next_if(is_colon).is_some() =>
            {
                tokens.push(Token::new("::", line));
            }
            TokenTree::Punct(punct) => tokens.push(Token::new(punct.as_char(), line)),
            TokenTree::Ident(ident) => tokens.push(Token::new(ident.to_string(), line)),
            TokenTree::Literal(literal) => tokens.push(Token::new(literal.to_string(), line)),
        }
    }
}

/// Whether the tokens from `at` on read as `wanted`.
pub(crate) fn reads(tokens: &[Token], at: usize, wanted: &[&str]) -> bool {
    tokens
        .get(at..at + wanted.len())
        .is_some_and(|found| found.iter().zip(wanted).all(|(token, text)| token.text == *text))
}

/// The index of the bracket that closes the one at `open`, or of the last token.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// The attributes, each as the tokens within its brackets.
pub(crate) fn attributes(tokens: &[Token]) -> impl Iterator<Item = &[Token]> {
    tokens.iter().enumerate().filter_map(|(at, token)| {
        if token.text != "#" {
            return None;
        }
        let open = if reads(tokens, at + 1, &["!"]) {
            at + 2
        } else {
            at + 1
        };
        reads(tokens, open, &["["]).then(|| tokens.get(open + 1..closing(tokens, open)))?
    })
}

/// The tokens without the items that only tests see.
pub(crate) fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if reads(tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            at += 7;
            // The item ends with its body or its semicolon, whichever comes first outside of brackets.
            while at < tokens.len() && !reads(tokens, at, &[";"]) && !reads(tokens, at, &["{"]) {
                let is_open = reads(tokens, at, &["("]) || reads(tokens, at, &["["]);
                at = if is_open { closing(tokens, at) + 1 } else { at + 1 };
            }
            at = if reads(tokens, at, &["{"]) {
                closing(tokens, at) + 1
            } else {
                at + 1
            };
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Every path that is named, in expressions, types and imports; `use a::{b, c::d}` names `a::b` and `a::c::d`.
pub(crate) fn paths(tokens: &[Token]) -> Vec<(Vec<String>, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let continues = at > 1 && tokens[at - 1].text == "::" && tokens[at - 2].is_word();
        if tokens[at].is_word() && !continues {
            at = path(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Follows the path that begins at `at`; returns where to go on.
fn path(tokens: &[Token], at: usize, before: &[String], found: &mut Vec<(Vec<String>, usize)>) -> usize {
    let line = tokens[at].line;
    let mut segments = before.to_vec();
    segments.push(tokens[at].text.clone());
    let mut at = at + 1;
    while reads(tokens, at, &["::"]) {
        if reads(tokens, at + 1, &["{"]) {
            let end = closing(tokens, at + 1);
            at += 2;
            while at < end {
                at = if tokens[at].is_word() {
                    path(tokens, at, &segments, found)
                } else {
                    at + 1
                };
            }
            return end + 1;
        }
        match tokens.get(at + 1).filter(|next| next.is_word()) {
            Some(next) => segments.push(next.text.clone()),
            None => break,
        }
        at += 2;
    }
    found.push((segments, line));
    at
}

#[cfg(test)]
fn read(text: &str) -> Vec<Token> {
    tokens(&File::new("x.rs", text)).expect("Rust")
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "// unsafe\n/* unsafe */ fn f() { g(\"unsafe\", 'u', r#\"unsafe\"#); }";
    assert!(!read(text).iter().any(|token| token.text == "unsafe"));
    assert!(tokens(&File::new("x.rs", "fn f() {")).is_err());
}

#[test]
fn strings_give_their_content() {
    let strings: Vec<String> = read(r###"f("a", b"b", r#"c"#, 'd', 5)"###)
        .iter()
        .filter_map(|token| token.string().map(ToOwned::to_owned))
        .collect();
    assert_eq!(strings, ["a", "b", "c"]);
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let text = "use a::{b, c::{self, d as e}}; fn f(x: &g::H) -> i::J<k::L> { m::n(); x.o(::p::Q, r) }";
    let found: Vec<String> = paths(&read(text))
        .into_iter()
        .map(|(segments, _)| segments.join("::"))
        .collect();
    for wanted in [
        "a::b",
        "a::c::self",
        "a::c::d",
        "g::H",
        "i::J",
        "k::L",
        "m::n",
        "p::Q",
    ] {
        assert!(found.iter().any(|path| path == wanted), "{wanted} in {found:?}");
    }
}

#[test]
fn what_only_tests_see_is_left_out() {
    let text =
        "fn a() {} #[cfg(test)] #[path = \"x\"] mod tests; #[cfg(test)] fn b(x: [u8; 2]) { c(); } fn d() {}";
    let kept: Vec<String> = without_tests(&read(text))
        .into_iter()
        .map(|token| token.text)
        .collect();
    assert_eq!(kept.join(" "), "fn a ( ) { } fn d ( ) { }");
}
