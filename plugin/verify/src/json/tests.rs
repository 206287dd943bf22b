//! The scanner against documents that are right, wrong, and made to hurt.

use super::*;

fn one(document: &str, path: &[&str]) -> Result<Option<Scalar>, Malformed> {
    find(document.as_bytes(), [path]).map(|[value]| value)
}

fn text(value: &str) -> Option<Scalar> {
    Some(Scalar::Text(value.to_owned()))
}

#[test]
fn values_are_found_by_their_whole_path() {
    let document = r#"{"a":{"b":"x","c":[{"b":"no"},"b"],"d":{"b":"no"}},"b":"no","a.b":"no","":{"":"e"}}"#;
    assert_eq!(one(document, &["a", "b"]), Ok(text("x")));
    assert_eq!(one(document, &["", ""]), Ok(text("e")));
    for nothing in [
        &["a"][..],
        &["a", "c"],
        &["a", "c", "b"],
        &["x"],
        &["a", "b", "c"],
    ] {
        assert_eq!(one(document, nothing), Ok(None), "{nothing:?}");
    }
    let both = find(document.as_bytes(), [&["b"], &["a", "d", "b"]]);
    assert_eq!(both, Ok([text("no"), text("no")]));
    assert_eq!(one("7", &[]), Ok(Some(Scalar::Number("7".to_owned()))));
}

#[test]
fn every_kind_of_scalar_is_told() {
    let document = r#"{"n":null,"t":true,"f":false,"i":18446744073709551615,"m":-1,"r":1.5e-3}"#;
    let [n, t, f, i, m, r] = find(
        document.as_bytes(),
        [&["n"], &["t"], &["f"], &["i"], &["m"], &["r"]],
    )
    .unwrap();
    assert_eq!(
        (n, t, f),
        (
            Some(Scalar::Null),
            Some(Scalar::Bool(true)),
            Some(Scalar::Bool(false))
        )
    );
    assert_eq!(i.unwrap().whole(), Some(u64::MAX));
    assert_eq!(m.unwrap().whole(), None);
    assert_eq!(r, Some(Scalar::Number("1.5e-3".to_owned())));
}

#[test]
fn escapes_are_decoded() {
    for (written, meant) in [
        (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r"\u0041\u00e9\u20AC", "Aé€"),
        (r"\ud83d\ude00\u0000", "😀\0"),
        ("é€😀", "é€😀"),
    ] {
        assert_eq!(one(&format!("\"{written}\""), &[]), Ok(text(meant)), "{written}");
    }
    // Keys as well: an escaped key is the same key.
    assert_eq!(one(r#"{"\u0061":"x"}"#, &["a"]), Ok(text("x")));
}

#[test]
fn what_rfc_8259_does_not_write_is_refused() {
    for document in [
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "{]",
        "[}",
        "{}}",
        "[]]",
        "{}{}",
        "1 2",
        "1,",
        ",",
        ":",
        "nul",
        "nulll",
        "True",
        "NaN",
        "Infinity",
        "-",
        "+1",
        "01",
        "-01",
        "1.",
        ".1",
        "1e",
        "1e+",
        "0x1",
        "1_0",
        "'a'",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u123g\"",
        "\"\\u+123\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\n\"",
        "\"\\ud800\\u0041\"",
        "\"\\ud800x\"",
        "\"\t\"",
        "\"\n\"",
        "\"\0\"",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{1:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1,,2]",
        "// x\n1",
        "/**/1",
        "1 // x",
        "\u{feff}1",
        "\u{a0}1",
        "1\u{c}",
        "\"a\"b",
    ] {
        assert!(
            matches!(one(document, &["a"]), Err(Malformed::Syntax(at)) if at <= document.len()),
            "{document:?}"
        );
    }
    for bytes in [&b"\"\xff\""[..], b"\"\xc3\"", b"\xed\xa0\x80"] {
        assert_eq!(find(bytes, [&["a"]]), Err(Malformed::Encoding));
    }
}

#[test]
fn blanks_may_stand_between_all_tokens() {
    let document = " \t\r\n{ \"a\" \n:\t[ 1 , { } , [ ] , { \"b\" : 2 } ] , \"c\" : \"x\" } \n";
    assert_eq!(one(document, &["c"]), Ok(text("x")));
}

#[test]
fn nesting_is_followed_to_its_bound_and_no_further() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert_eq!(one(&nested(MAX_DEPTH), &["x"]), Ok(None));
        assert_eq!(one(&nested(MAX_DEPTH + 1), &["x"]), Err(Malformed::Depth));
        assert_eq!(one(&open.repeat(100_000), &["x"]), Err(Malformed::Depth));
    }
}

#[test]
fn a_wanted_value_stands_there_once() {
    assert_eq!(one(r#"{"a":1,"a":1}"#, &["a"]), Err(Malformed::Twice));
    assert_eq!(
        one(r#"{"a":{"b":1},"a":{"b":2}}"#, &["a", "b"]),
        Err(Malformed::Twice)
    );
    assert_eq!(
        one(r#"{"a":1,"a":1,"b":2}"#, &["b"]),
        Ok(Some(Scalar::Number("2".to_owned())))
    );
}

#[test]
fn what_is_quoted_is_read_back() {
    let mut all: String = (0..0x300).filter_map(char::from_u32).collect();
    all.push_str("\u{2028}\u{ffff}😀\u{10ffff}");
    assert_eq!(one(&quoted(&all), &[]), Ok(text(&all)));
    assert!(!quoted(&all).bytes().any(|b| b < 0x20));
}

#[test]
fn every_beginning_of_a_document_is_refused_and_no_change_of_a_byte_hurts() {
    let document = r#"{"v":1,"reply":{"now":[1.5e3,-2,true,null],"answer":{"answer":"re\u0066used","why":"\ud83d\ude00 é"}}}"#;
    let bytes = document.as_bytes();
    let path: &[&str] = &["reply", "answer", "answer"];
    assert_eq!(find(bytes, [path]), Ok([text("refused")]));
    for end in 0..bytes.len() {
        assert!(find(&bytes[..end], [path]).is_err(), "{end}");
    }
    for at in 0..bytes.len() {
        for byte in 0..=u8::MAX {
            let mut changed = bytes.to_vec();
            changed[at] = byte;
            // Read or refused, but told; and what is read was a document.
            if let Err(Malformed::Syntax(place)) = find(&changed, [path]) {
                assert!(place <= changed.len());
            }
        }
    }
}

#[test]
fn long_documents_cost_little() {
    // Each value under a long key: a scanner that copies paths would need gigabytes.
    let document = format!("{{\"{}\":[{}1]}}", "k".repeat(30_000), "1,".repeat(15_000));
    let started = std::time::Instant::now();
    assert_eq!(one(&document, &["k"]), Ok(None));
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
}
