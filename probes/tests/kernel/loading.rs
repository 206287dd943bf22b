//! What loading demands, and how it refuses.

use std::path::PathBuf;
use std::thread;

use magi_probes::{
    Capability, ConversationOptions, Conversations, Hooks, Level, LoadError, MAX_PATHS, MAX_TARGETS, Options,
    Probes, Strategy, WatchError, release_memory, return_freed_memory,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::listening::HOOKS;
use crate::scene::{alone, checked, probes};

fn is_built() -> bool {
    !matches!(
        Probes::load(&Options::default()),
        Err(LoadError::NoCompiledObject { .. })
    )
}

#[test]
fn without_type_information_nothing_is_loaded() {
    let _alone = alone();
    let missing = PathBuf::from("/nonexistent/btf");
    let error = Probes::load(&Options {
        btf: Some(missing.clone()),
        ..Options::default()
    })
    .unwrap_err();
    let is_named = matches!(&error, LoadError::NoBtf { path, .. } if *path == missing);
    assert!(is_named || !is_built(), "{error:?}");
}

#[test]
fn damaged_type_information_is_refused() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let header = [
        0x9f_u8, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 9, 9, 9, 9,
    ];
    for length in [0, 1, 7, header.len()] {
        std::fs::write(file.path(), &header[..length]).unwrap();
        let options = Options {
            btf: Some(file.path().to_owned()),
            ..Options::default()
        };
        let error = Probes::load(&options).unwrap_err();
        assert!(
            matches!(error, LoadError::NoBtf { .. }) || !is_built(),
            "{length}: {error:?}"
        );
    }
}

#[test]
fn a_missing_capability_is_named() {
    let _alone = alone();
    if probes(Level::InodeTracepoints).is_none() {
        return;
    }
    for (effective, missing) in [
        (CapabilitySet::empty(), Capability::Bpf),
        (CapabilitySet::PERFMON, Capability::Bpf),
        (CapabilitySet::BPF, Capability::Perfmon),
    ] {
        let error = with_capabilities(effective, || Probes::load(&Options::default()).unwrap_err());
        let is_named = matches!(error, LoadError::NotPermitted { missing: named } if named == missing);
        assert!(is_named, "{error:?} with {effective:?}");
    }
}

/// Runs this in a thread of its own: capabilities belong to a thread, and end with it.
fn with_capabilities<T: Send + 'static>(effective: CapabilitySet, run: fn() -> T) -> T {
    thread::spawn(move || {
        let permitted = capabilities(None).unwrap().permitted;
        let inheritable = CapabilitySet::empty();
        set_capabilities(
            None,
            CapabilitySets {
                effective,
                permitted,
                inheritable,
            },
        )
        .unwrap();
        run()
    })
    .join()
    .unwrap()
}

#[test]
fn bpf_and_perfmon_are_enough() {
    let _alone = alone();
    if probes(Level::InodeTracepoints).is_none() {
        return;
    }
    with_capabilities(CapabilitySet::BPF | CapabilitySet::PERFMON, || {
        for level in [Level::InodeTracepoints, Level::SyscallTracepoints] {
            assert_eq!(probes(level).map(|probes| probes.level()), Some(level));
        }
    });
}

#[test]
fn conversations_need_the_same_and_no_more() {
    let _alone = alone();
    if checked(Conversations::load(&ConversationOptions::default())).is_none() {
        return;
    }
    with_capabilities(CapabilitySet::BPF | CapabilitySet::PERFMON, || {
        for hooks in HOOKS {
            let options = ConversationOptions {
                strategy: Strategy::Only(hooks),
                ..ConversationOptions::default()
            };
            let mut conversations = Conversations::load(&options).unwrap();
            conversations.watch(&[std::process::id()]).unwrap();
            conversations.sweep().unwrap();
            assert_eq!(conversations.hooks(), hooks);
        }
    });
    let error = with_capabilities(CapabilitySet::BPF, || {
        Conversations::load(&ConversationOptions::default()).unwrap_err()
    });
    let missing = Capability::Perfmon;
    assert!(
        matches!(error, LoadError::NotPermitted { missing: named } if named == missing),
        "{error:?}"
    );
    let best = Conversations::load(&ConversationOptions::default()).unwrap();
    assert_eq!(best.hooks(), Hooks::SocketTracepoints);
    assert!(best.fell_back().is_none());
}

#[test]
fn conversations_are_refused_with_a_reason() {
    let _alone = alone();
    let given = MAX_PATHS + 1;
    let options = |paths: Vec<PathBuf>, btf: Option<&str>| ConversationOptions {
        paths,
        btf: btf.map(PathBuf::from),
        ..ConversationOptions::default()
    };
    let error = Conversations::load(&options(vec![PathBuf::from("/run/c.sock"); given], None)).unwrap_err();
    assert!(
        matches!(error, LoadError::TooManyPaths { given: named } if named == given),
        "{error:?}"
    );
    let long = PathBuf::from("/x".repeat(54));
    let error = Conversations::load(&options(vec![long.clone()], None)).unwrap_err();
    assert!(
        matches!(&error, LoadError::ListenerPath { path } if *path == long),
        "{error:?}"
    );
    let error = Conversations::load(&options(Vec::new(), Some("/nonexistent/btf"))).unwrap_err();
    assert!(
        matches!(error, LoadError::NoBtf { .. }) || !is_built(),
        "{error:?}"
    );
}

#[test]
fn a_store_on_an_unknown_file_system_gets_the_other_variant() {
    let _alone = alone();
    if probes(Level::InodeTracepoints).is_none() {
        return;
    }
    let options = Options {
        store: Some(PathBuf::from("/proc")),
        ..Options::default()
    };
    let probes = Probes::load(&options).unwrap();
    assert_eq!(probes.level(), Level::SyscallTracepoints);
    assert!(matches!(
        probes.fell_back(),
        Some(LoadError::FileSystem { kind: 0x9fa0, .. })
    ));

    let best = Probes::load(&Options::default()).unwrap();
    assert_eq!(best.level(), Level::InodeTracepoints);
    assert!(best.fell_back().is_none());
}

#[test]
fn only_a_few_real_processes_can_be_watched() {
    let _alone = alone();
    let Some(mut probes) = probes(Level::InodeTracepoints) else {
        return;
    };
    assert!(matches!(probes.watch(&[0]), Err(WatchError::Zero)));
    let given = MAX_TARGETS + 1;
    let many = vec![1; given];
    assert!(matches!(probes.watch(&many), Err(WatchError::TooMany { given: named }) if named == given));
    probes.watch(&many[1..]).unwrap();
    probes.watch(&[]).unwrap();
}

#[test]
fn the_peak_of_loading_is_given_back() {
    let _alone = alone();
    // This thread has an arena of its own, as the one in which the node agent loads.
    return_freed_memory();
    let before = anonymous_kib();
    let Ok(_probes) = Probes::load(&Options {
        strategy: Strategy::Best,
        ..Options::default()
    }) else {
        return;
    };
    release_memory();
    let after = anonymous_kib();
    assert!(after < before + 4096, "{before} KiB before, {after} KiB after");
}

fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
