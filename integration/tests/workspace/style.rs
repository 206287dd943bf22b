//! What no file may contain, whatever it is about.

use crate::files::{self, File};
use crate::source::{attributes, reads, tokens};

/// A file that is longer owns too much.
const MAX_LINES: usize = 600;
/// The folders whose code may be unsafe: reading the kernel's ring, and taking over a descriptor.
const UNSAFE_ROOMS: &[&str] = &["probes/", "plugin/sys/"];
const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"];

/// Every rule for Rust files.
pub(crate) fn rust(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |line: usize, what: &str| complaints.push(format!("{}:{line}: {what}", file.path));
    if !file.text.starts_with("//!") {
        complain(1, "does not open with //!, which says what it owns and why");
    }
    let tokens = match tokens(file) {
        Ok(tokens) => tokens,
        Err(problem) => return vec![problem],
    };
    for attribute in attributes(&tokens) {
        for (at, token) in attribute.iter().enumerate() {
            if token.text == "allow" && reads(attribute, at + 1, &["("]) {
                complain(token.line, "a bare allow: use expect, with the reason");
            }
            let is_whole = at == 0 || reads(attribute, at - 1, &[","]) && attribute[0].text == "cfg_attr";
            if token.text == "ignore" && is_whole {
                complain(token.line, "an ignored test: it tells nothing");
            }
        }
    }
    let may_be_unsafe = UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room));
    for (at, token) in tokens.iter().enumerate() {
        if token.text == "unsafe" && !may_be_unsafe {
            complain(token.line, "unsafe outside of the folders that may");
        }
        let Some(string) = token.string().filter(|_| file.is_product()) else {
            continue;
        };
        let (folder, name) = string.rsplit_once('/').unwrap_or(("", string));
        let is_started = at >= 4 && reads(&tokens, at - 4, &["Command", "::", "new", "("]);
        if SHELLS.contains(&name) && (is_started || folder.ends_with("bin")) {
            complain(token.line, "a shell: start the program itself");
        }
    }
    complaints
}

/// Every rule for files of any kind that we wrote.
pub(crate) fn any(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    let is_code = [".rs", ".c", ".h", ".proto"]
        .iter()
        .any(|end| file.path.ends_with(end));
    let lines = file.text.lines().count();
    if is_code && lines > MAX_LINES {
        complaints.push(format!(
            "{}: has {lines} lines, over {MAX_LINES}: split it by what it owns",
            file.path
        ));
    }
    let is_dump = file.path.ends_with("vmlinux.h");
    let includes_dump = |line: &str| line.trim_start().starts_with("#include") && line.contains("vmlinux.h");
    if is_dump || is_code && file.text.lines().any(includes_dump) {
        complaints.push(format!(
            "{}: vmlinux.h: declare the fields that are read (bpf/kernel.h)",
            file.path
        ));
    }
    complaints
}

#[test]
fn rust_files_keep_the_rules() {
    let files = files::all().expect("the files");
    let rust_files: Vec<&File> = files.iter().filter(|file| file.is_rust()).collect();
    assert!(
        rust_files.len() > 50,
        "only {} Rust files were found",
        rust_files.len()
    );
    crate::nothing_to_complain(rust_files.into_iter().flat_map(rust).collect());
}

#[test]
fn all_files_keep_the_rules() {
    let files = files::all().expect("the files");
    crate::nothing_to_complain(
        files
            .iter()
            .filter(|file| !file.is_foreign())
            .flat_map(any)
            .collect(),
    );
}

#[test]
fn bad_rust_is_seen() {
    for (path, text, what) in [
        ("a/src/x.rs", "// a comment\nfn f() {}", "//!"),
        ("a/src/x.rs", "//! x\n#[test]\n#[ignore]\nfn f() {}", "ignored"),
        (
            "a/src/x.rs",
            "//! x\n#[test]\n#[ignore = \"slow\"]\nfn f() {}",
            "ignored",
        ),
        (
            "a/src/x.rs",
            "//! x\n#[cfg_attr(debug_assertions, ignore)]\nfn f() {}",
            "ignored",
        ),
        ("a/src/x.rs", "//! x\n#![allow(dead_code)]\n", "allow"),
        (
            "a/src/x.rs",
            "//! x\n#[cfg_attr(test, allow(dead_code))]\nfn f() {}",
            "allow",
        ),
        ("plugin/src/x.rs", "//! x\nfn f() { unsafe { g() } }", "unsafe"),
        (
            "plugin/src/x.rs",
            "//! x\nfn f() { Command::new(\"sh\"); }",
            "shell",
        ),
        (
            "plugin/src/x.rs",
            "//! x\nfn f() { std::process::Command::new(\"/usr/bin/bash\"); }",
            "shell",
        ),
        ("plugin/src/x.rs", "//! x\nconst S: &str = \"/bin/sh\";", "shell"),
        ("plugin/src/x.rs", "//! x\nfn f( {", "cannot be read"),
    ] {
        let complaints = rust(&File::new(path, text));
        assert!(
            complaints.len() == 1 && complaints[0].contains(what),
            "{text}\n{complaints:?}"
        );
    }
}

#[test]
fn good_rust_passes() {
    for (path, text) in [
        ("probes/src/x.rs", "//! x\nfn f() { unsafe { g() } }"),
        ("integration/src/x.rs", "//! x\nfn f() { Command::new(\"sh\"); }"),
        (
            "plugin/src/x.rs",
            "//! x\n#[expect(dead_code, reason = \"because\")]\nfn ignore() { allow(\"sh\") }",
        ),
        (
            "plugin/src/x.rs",
            "//! x\n// #[ignore] unsafe\nconst S: &str = \"#[allow(x)] unsafe\";",
        ),
        ("plugin/src/x.rs", "//! x\n#[serde(ignore)]\nstruct S;"),
    ] {
        assert_eq!(rust(&File::new(path, text)), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn long_files_and_kernel_dumps_are_seen() {
    let long = "//\n".repeat(MAX_LINES + 1);
    assert_eq!(any(&File::new("a/x.rs", &long)).len(), 1);
    assert_eq!(any(&File::new("a/x.c", &long)).len(), 1);
    assert_eq!(any(&File::new("a/x.json", &long)).len(), 0);
    assert_eq!(any(&File::new("a/x.rs", &long[3..])).len(), 0);
    assert_eq!(any(&File::new("bpf/vmlinux.h", "")).len(), 1);
    assert_eq!(any(&File::new("bpf/x.c", "#include \"vmlinux.h\"\n")).len(), 1);
    assert_eq!(any(&File::new("bpf/x.c", "/* no vmlinux.h here */\n")).len(), 0);
}
