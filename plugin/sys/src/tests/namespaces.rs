//! Tables of other network namespaces.

use std::sync::mpsc;

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

use super::*;

#[test]
fn another_namespace_is_seen_through_a_process_in_it_and_not_otherwise() {
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        scope.spawn(move || {
            #[expect(unsafe_code, reason = "leaving a namespace has no safe wrapper")]
            // SAFETY: only the network namespace of this thread changes; its descriptors stay shared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            // The new namespace has no address that could be connected to, but a listener it can have.
            let listener = TcpListener::bind("0.0.0.0:0").unwrap();
            tell.send((gettid(), socket_cookie(&listener).unwrap())).unwrap();
            // Keeps the listener and the thread until the main thread has looked, or failed.
            let _hung_up = released.recv_timeout(PATIENCE);
        });
        let (there, cookie) = told.recv_timeout(PATIENCE).unwrap();
        let there = u32::try_from(there.as_raw_nonzero().get()).unwrap();
        let has = |table: &SocketTable| {
            table
                .tcp_sockets(&TcpFilter::listening())
                .unwrap()
                .iter()
                .any(|socket| socket.cookie == cookie)
        };

        assert!(!has(&SocketTable::open().unwrap()));
        let other = SocketTable::open_in_netns_of(there).unwrap();
        assert!(has(&other));
        // Joining was the work of a thread that is gone: this one is where it was.
        assert!(!has(&SocketTable::open().unwrap()));

        let refused = without(CapabilitySet::SYS_ADMIN, || SocketTable::open_in_netns_of(there));
        assert!(
            matches!(refused, Err(SocketTableError::Join { .. })),
            "{refused:?}"
        );
        // No capability is needed for the namespace that one is in anyway.
        let own = without(CapabilitySet::all(), || {
            SocketTable::open_in_netns_of(std::process::id())
        });
        assert!(own.is_ok(), "{own:?}");
        drop(release);
    });
}

#[test]
fn a_process_that_is_gone_has_no_namespace() {
    let refused = SocketTable::open_in_netns_of(u32::MAX);
    assert!(
        matches!(refused, Err(SocketTableError::Namespace { .. })),
        "{refused:?}"
    );
}
