//! Random configurations: undo gives the bytes back, twice is once, and nothing but the wanted settings changes.

use proptest::prelude::*;

use super::*;

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("\n"), Just("\r\n")]
}

fn nri() -> impl Strategy<Value = String> {
    let name = "\"io.containerd.nri.v1.nri\"";
    prop_oneof![
        Just(String::new()),
        Just(format!("[plugins.{name}]\n")),
        Just(format!("  [ plugins . {name} ] # why\n\n\n")),
        Just(format!("[plugins.{name}]\n\tdisable=true# no\n")),
        Just(format!(
            "[plugins.{name}]\n# disable = true\ndisable_connections = true\n disable   =   true\n"
        )),
        Just(format!(
            "[plugins]\n{name} = {{disable=true,disable_connections=true}}\n"
        )),
        Just(format!("[plugins]\n{name}={{ }}\n[plugins.z]\n")),
        Just(format!("[plugins]\n{name}.disable_connections = true\n")),
        Just(format!("[plugins.{name}.sub]\nx = [1,\n2]\n")),
        Just("[plugins]\n".to_owned()),
    ]
}

fn other() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("# a comment with = and [brackets]\n".to_owned()),
        Just("\n".to_owned()),
        Just("   \t\n".to_owned()),
        "[a-z]{1,8}".prop_map(|name| format!("[proxy_plugins.x{name}] # {name}\n  address = '/{name}'\n")),
        "[a-z]{1,8}".prop_map(|name| format!(
            "[timeouts.t{name}]\n\"disable\" = false\ntext = \"\"\"\n[plugins]\ndisable = false\n\"\"\"\n"
        )),
    ]
}

fn config() -> impl Strategy<Value = String> {
    let others = || proptest::collection::vec(other(), 0..4);
    (
        others(),
        nri(),
        others(),
        line_end(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(before, nri, after, end, trailing, mark)| {
            let mut text = format!("version = 2\n{}{nri}{}", before.concat(), after.concat());
            if !trailing {
                text = text.trim_end().to_owned();
            }
            let mark = if mark { "\u{feff}" } else { "" };
            mark.to_owned() + &text.replace('\n', end)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn undo_is_exact_and_twice_is_once(config in config()) {
        let body = config.strip_prefix('\u{feff}').unwrap_or(&config);
        // Two tables of one name, as chance has it, are refused like any other mistake.
        prop_assume!(toml::from_str::<toml::Table>(body).is_ok());
        let (edited, _) = there_and_back("1.7.24", &config);
        prop_assert!(edited.contains("false"));
        let mut expected: toml::Table = toml::from_str(body).unwrap();
        let values: toml::Table = toml::from_str(edited.strip_prefix('\u{feff}').unwrap_or(&edited)).unwrap();
        let plugins = expected.entry("plugins").or_insert_with(|| toml::Table::new().into());
        let section = plugins.as_table_mut().unwrap().entry("io.containerd.nri.v1.nri");
        let section = section.or_insert_with(|| toml::Table::new().into()).as_table_mut().unwrap();
        section.insert("disable".into(), false.into());
        if section.contains_key("disable_connections") {
            section.insert("disable_connections".into(), false.into());
        }
        prop_assert_eq!(values, expected);
    }

    #[test]
    fn edits_behind_are_kept(config in config(), behind in "[a-z]{1,6}") {
        let body = config.strip_prefix('\u{feff}').unwrap_or(&config);
        prop_assume!(toml::from_str::<toml::Table>(body).is_ok());
        let node = Node::with(&config);
        node.install("1.7.24");
        let addition = format!("\n[debug.{behind}]\nlevel = \"x\"\n");
        node.write(DEFAULT_CONFIG, node.config() + &addition);
        node.uninstall();
        let left = node.config();
        prop_assert!(left.ends_with(&addition));
        let values = |text: &str| toml::from_str::<toml::Table>(text.strip_prefix('\u{feff}').unwrap_or(text)).unwrap();
        let mut expected = values(&(config.clone() + &addition));
        let mut found = values(&left);
        // A table that was made for a setting may stay behind, empty.
        for table in [&mut expected, &mut found] {
            if let Some(plugins) = table.get_mut("plugins").and_then(toml::Value::as_table_mut) {
                plugins.retain(|_, value| value.as_table().is_none_or(|table| !table.is_empty()));
            }
            if table.get("plugins").and_then(toml::Value::as_table).is_some_and(toml::Table::is_empty) {
                table.remove("plugins");
            }
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_text_gives_a_plan_or_an_error(text in "\\PC{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let node = Node::with(&format!("version = 2\n{text}"));
        let _plan_or_error = node.plan("1.7.24").is_ok();
        node.write(DEFAULT_CONFIG, &bytes);
        let _plan_or_error = node.plan("2.1.9").is_ok();
    }
}
