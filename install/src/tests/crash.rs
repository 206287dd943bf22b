//! Every step of install and uninstall as the last one before a crash: the next run finishes it, and undo undoes it.

use super::*;
use crate::ApplyError;

const CONFIG: &str = "version = 3\n# kept\n[plugins.'io.containerd.nri.v1.nri']\ndisable = true\n";
const STEPS: usize = 16;

fn crashing(node: &Node) -> Request {
    node.write("/src/magi-verify", "#!/bin/sh\nexit 0\n");
    let mut request = node.request("2.1.9");
    request.verifier = Some(node.real("/src/magi-verify"));
    request
}

/// Whether it came to the end before step `last`.
fn stop_at(plan: &Plan, last: usize) -> bool {
    let mut step = 0;
    let result = plan.apply_in_steps(&mut || {
        step += 1;
        if step > last {
            Err(ApplyError::Crash)
        } else {
            Ok(())
        }
    });
    match result {
        Ok(()) => true,
        Err(ApplyError::Crash) => false,
        Err(error) => panic!("{error}"),
    }
}

/// As a crash in the middle of writing would leave them.
fn half_written(node: &Node) {
    for temp in [
        "/etc/containerd/.config.toml.magi-tmp",
        "/opt/containerd/image-verifier/.magi-verify.magi-tmp",
    ] {
        if node.real(temp).parent().unwrap().exists()
            && node.real(DEFAULT_STATE).join("manifest.json").exists()
        {
            node.write(temp, "half");
        }
    }
}

#[test]
fn install_goes_on_or_back_from_every_step() {
    let mut ends = 0;
    for last in 0..STEPS {
        for again in [true, false] {
            let node = Node::with(CONFIG);
            let request = crashing(&node);
            let before = node.contents();
            let ended = stop_at(&plan_install(&request).unwrap(), last);
            ends += usize::from(ended);
            half_written(&node);
            if again {
                plan_install(&request).unwrap().apply().unwrap();
                assert!(node.config().contains("disable = false"), "{last}");
                assert!(node.real(BIN_DIR).join("magi-verify").exists(), "{last}");
                if !ended {
                    assert!(
                        !node.real("/etc/containerd/.config.toml.magi-tmp").exists(),
                        "{last}"
                    );
                }
                assert!(plan_install(&request).unwrap().is_nothing(), "{last}");
            }
            node.uninstall();
            if last == 0 {
                // It ended before there was a journal: whose the folders above it are is not known any more.
                assert!(!node.real(DEFAULT_STATE).join("manifest.json").exists());
                fs::remove_dir_all(node.real("/var")).unwrap();
            }
            assert_eq!(node.contents(), before, "{last} {again}");
        }
    }
    assert!(
        ends > 0 && ends < 2 * STEPS,
        "the steps are counted wrong: {ends}"
    );
}

#[test]
fn uninstall_goes_on_from_every_step() {
    let mut ends = 0;
    for last in 0..STEPS {
        let node = Node::with(CONFIG);
        let request = crashing(&node);
        let before = node.contents();
        plan_install(&request).unwrap().apply().unwrap();
        ends += usize::from(stop_at(&node.plan_undo().unwrap(), last));
        half_written(&node);
        node.uninstall();
        assert_eq!(node.contents(), before, "{last}");
        // And from the middle of an uninstall, install finds its way as well.
        plan_install(&request).unwrap().apply().unwrap();
        stop_at(&node.plan_undo().unwrap(), last);
        plan_install(&request).unwrap().apply().unwrap();
        assert!(plan_install(&request).unwrap().is_nothing(), "{last}");
        node.uninstall();
        assert_eq!(node.contents(), before, "{last}");
    }
    assert!(ends > 0 && ends < STEPS, "the steps are counted wrong: {ends}");
}

#[test]
fn two_at_once_do_not_mix() {
    let node = Node::with(CONFIG);
    let request = node.request("2.1.9");
    let (one, two) = (plan_install(&request).unwrap(), plan_install(&request).unwrap());
    let result = one.apply_in_steps(&mut || {
        assert!(matches!(two.apply(), Err(ApplyError::Busy(_))));
        Ok(())
    });
    result.unwrap();
    node.uninstall();
    assert_eq!(node.config(), CONFIG);
}
