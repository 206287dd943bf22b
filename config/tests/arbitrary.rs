//! No bytes make a reader panic, and what it says of them is well-formed.

use magi_config::{ConfigError, load_policy, parse_policy, parse_settings};
use proptest::prelude::*;

fn well_formed<T>(result: Result<T, ConfigError>) -> Result<(), TestCaseError> {
    if let Err(error) = result {
        prop_assert!(!error.problems().is_empty());
        prop_assert!(error.problems().len() <= 50);
        let report = error.to_string();
        let harmless = |c: char| c == '\n' || !c.is_control();
        prop_assert!(report.chars().all(harmless), "{report:?}");
        for problem in error.problems() {
            prop_assert!(
                problem.message.chars().all(|c| !c.is_control()),
                "{:?}",
                problem.message
            );
        }
    }
    Ok(())
}

/// Pieces of real documents, so that random ones come further than the first bracket.
fn piece() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "version: 1\n",
        "mode: ",
        "enforce\n",
        "limits:",
        "limits: {",
        "rules:\n",
        "rules: [",
        "image: ",
        "layer:",
        "10GiB",
        "none",
        "- name: a\n",
        "{name: b, ",
        "match: ",
        "images: ",
        "namespaces: ",
        "['*']",
        "exempt: true",
        "\n",
        "\n  ",
        "\n    ",
        "  ",
        "- ",
        "? ",
        ": ",
        ", ",
        "}",
        "]",
        "{",
        "[",
        "\"",
        "'",
        "# ",
        "&a ",
        "*a",
        "!t ",
        "<<: ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "|\n",
        ">-\n",
        "\t",
        "\r\n",
        "\u{feff}",
        "~",
        "null",
        "\\e",
        "é",
        "日本",
        "\u{202e}",
        "audit: ",
        "poll: {active: ",
        "250ms",
        "trace: ",
        "/p",
    ]);
    prop_oneof![8 => words.prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn text_of_pieces(pieces in prop::collection::vec(piece(), 0..40)) {
        let text = pieces.concat();
        well_formed(parse_policy("policy.yaml", &text))?;
        well_formed(parse_settings("settings.yaml", &text))?;
    }

    #[test]
    fn any_text(text: String, file: String) {
        well_formed(parse_policy(&file, &text))?;
        well_formed(parse_settings(&file, &text))?;
    }
}

proptest! {
    #[test]
    fn any_bytes_in_a_file(bytes: Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        std::fs::write(&path, &bytes).unwrap();
        well_formed(load_policy(&path))?;
    }
}
