//! What others named must not steer the terminal that shows it.

use std::fmt::Write;

/// A name in a table: printable ASCII stays, all else is shown as an escape, so that one character is one column.
pub(crate) fn name(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut shown, character| {
            match character {
                '\\' => shown.push_str("\\\\"),
                ' '..='~' => shown.push(character),
                _ => shown.extend(character.escape_default()),
            }
            shown
        })
}

/// Text for people: whatever controls a terminal or reorders the line is shown as an escape.
pub(crate) fn text(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut shown, character| {
            if character.is_control() || is_invisible(character) {
                shown.extend(character.escape_default());
            } else {
                shown.push(character);
            }
            shown
        })
}

/// Separators, joiners, directions, tags and variation selectors.
const fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// JSON in printable ASCII: outside of it there is nothing but strings, where an escape means the same.
pub(crate) fn json(json: &str) -> String {
    json.chars()
        .fold(String::with_capacity(json.len()), |mut shown, character| {
            if matches!(character, ' '..='~') {
                shown.push(character);
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _a_string_takes_all = write!(shown, "\\u{unit:04x}");
                }
            }
            shown
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        let hostile = "a\u{1b}]0;x\u{7}\r\n\t\u{9b}31m\u{202e}b\\é\u{7f}";
        assert_eq!(
            name(hostile),
            r"a\u{1b}]0;x\u{7}\r\n\t\u{9b}31m\u{202e}b\\\u{e9}\u{7f}"
        );
        assert_eq!(text(hostile), r"a\u{1b}]0;x\u{7}\r\n\t\u{9b}31m\u{202e}b\é\u{7f}");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::Value::from("a\u{1b}\u{9b}\u{7f}é\u{1f600}\"\\");
        let shown = json(&value.to_string());
        assert!(shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
