//! The publisher with real files, links and restarts.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const ONE: &str = "version: 1\nmode: observe\n";
const TWO: &str = "version: 1\nmode: enforce\n";
const WRONG: &str = "version: 1\nmode: sometimes\n";

struct Setup {
    folder: tempfile::TempDir,
    counters: Arc<Counters>,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        Self {
            folder,
            counters: Arc::default(),
        }
    }

    fn open(&self, source: &str) -> Publisher {
        let state = self.folder.path().join("state");
        Publisher::open(
            Some(&self.folder.path().join(source)),
            &state,
            Arc::clone(&self.counters),
        )
        .unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }
}

fn revision(publisher: &Publisher) -> Option<u64> {
    let current = publisher.current.borrow();
    current.as_ref().map(|snapshot| snapshot.version.revision)
}

fn at(millisecond: i64) -> Timestamp {
    Timestamp::from_millisecond(millisecond).unwrap()
}

#[test]
fn a_change_gets_a_higher_number_whatever_the_clock_says() {
    let setup = Setup::new();
    setup.write("policy.yaml", ONE);
    let publisher = setup.open("policy.yaml");
    assert!(publisher.look(at(1000)));
    assert!(!publisher.look(at(2000)));
    assert_eq!(revision(&publisher), Some(1000));
    setup.write("policy.yaml", TWO);
    assert!(publisher.look(at(500)), "the clock was put back");
    assert_eq!(revision(&publisher), Some(1001));
    setup.write("policy.yaml", ONE);
    assert!(publisher.look(at(3000)));
    assert_eq!(revision(&publisher), Some(3000));
}

#[test]
fn the_last_good_one_stays_over_a_wrong_one_and_over_restarts() {
    let setup = Setup::new();
    setup.write("policy.yaml", ONE);
    let publisher = setup.open("policy.yaml");
    publisher.look(at(1000));
    setup.write("policy.yaml", WRONG);
    assert!(!publisher.look(at(2000)) && !publisher.look(at(2001)));
    assert!(publisher.problems().borrow().contains("sometimes"));
    assert_eq!(setup.counters.get(Count::PolicyProblems), 1);
    assert_eq!(revision(&publisher), Some(1000));
    drop(publisher);
    let publisher = setup.open("policy.yaml");
    assert_eq!(revision(&publisher), Some(1000));
    assert!(!publisher.look(at(3000)));
    fs::remove_file(setup.folder.path().join("policy.yaml")).unwrap();
    assert!(!publisher.look(at(4000)));
    assert!(publisher.problems().borrow().contains("does not exist"));
    setup.write("policy.yaml", ONE);
    assert!(!publisher.look(at(5000)), "the same text keeps its number");
    assert_eq!(*publisher.problems().borrow(), "");
    assert_eq!(revision(&publisher), Some(1000));
}

#[test]
fn a_config_map_is_swapped_as_a_whole() {
    let setup = Setup::new();
    let mount = setup.folder.path().join("mount");
    for (version, text) in [("..1", ONE), ("..2", TWO)] {
        fs::create_dir_all(mount.join(version)).unwrap();
        fs::write(mount.join(version).join("policy.yaml"), text).unwrap();
    }
    symlink("..1", mount.join("..data")).unwrap();
    symlink("..data/policy.yaml", mount.join("policy.yaml")).unwrap();
    let publisher = setup.open("mount");
    assert!(publisher.look(at(1000)));
    symlink("..2", mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    assert!(publisher.look(at(2000)));
    let current = publisher.current.borrow().clone().unwrap();
    assert_eq!(current.bytes, TWO);
    fs::write(mount.join("another.yml"), ONE).unwrap();
    assert!(!publisher.look(at(3000)));
    assert!(publisher.problems().borrow().contains("2 YAML files"));
}

#[test]
fn what_is_too_large_or_no_text_changes_nothing() {
    let setup = Setup::new();
    let publisher = setup.open("policy.yaml");
    for bad in [vec![b'#'; MAX_POLICY + 1], vec![0xff, 0xfe], Vec::new()] {
        fs::write(setup.folder.path().join("policy.yaml"), bad).unwrap();
        assert!(!publisher.look(at(1000)));
        assert_ne!(*publisher.problems().borrow(), "");
    }
    assert_eq!(revision(&publisher), None);
}

#[test]
fn a_pushed_policy_is_checked_numbered_and_kept() {
    let setup = Setup::new();
    let state = setup.folder.path().join("state");
    let open = || Publisher::open(None, &state, Arc::clone(&setup.counters)).unwrap();
    let publisher = open();
    assert!(!publisher.look(at(500)), "there is no file to look at");
    let (first, is_new) = publisher
        .push(ONE.as_bytes(), "operator ann", 0, at(1000))
        .unwrap();
    assert!(is_new && first.revision == 1000);
    assert!(
        !publisher
            .push(ONE.as_bytes(), "operator bob", 0, at(2000))
            .unwrap()
            .1
    );
    let wrong = publisher.push(WRONG.as_bytes(), "operator ann", 0, at(2000));
    assert!(matches!(wrong, Err(PolicyError::Wrong(_))), "{wrong:?}");
    let large = publisher.push(&vec![b'#'; MAX_POLICY + 1], "operator ann", 0, at(2000));
    assert!(matches!(large, Err(PolicyError::TooLarge)), "{large:?}");
    let slow = publisher.push(TWO.as_bytes(), "operator bob", 999, at(2000));
    assert!(
        matches!(
            slow,
            Err(PolicyError::Replaced {
                in_force: 1000,
                meant: 999
            })
        ),
        "{slow:?}"
    );
    let (second, _) = publisher
        .push(TWO.as_bytes(), "operator bob", 1000, at(500))
        .unwrap();
    assert_eq!(second.revision, 1001, "the clock was put back");
    drop(publisher);
    let kept = open().current.borrow().clone().unwrap();
    assert_eq!((kept.version, kept.by.as_deref()), (second, Some("operator bob")));
}

#[test]
fn a_file_is_not_overruled_by_a_push_and_takes_over_from_one() {
    let setup = Setup::new();
    let state = setup.folder.path().join("state");
    Publisher::open(None, &state, Arc::clone(&setup.counters))
        .unwrap()
        .push(TWO.as_bytes(), "operator ann", 0, at(1000))
        .unwrap();
    setup.write("policy.yaml", ONE);
    let publisher = setup.open("policy.yaml");
    let refused = publisher.push(TWO.as_bytes(), "operator ann", 0, at(2000));
    let why = refused.unwrap_err().to_string();
    assert!(
        why.contains("policy.yaml") && why.contains("`policy: null`"),
        "{why}"
    );
    assert!(publisher.look(at(3000)));
    let current = publisher.current.borrow().clone().unwrap();
    assert_eq!((current.version.revision, current.by.as_deref()), (3000, None));
}
