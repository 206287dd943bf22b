//! Disconnecting through a duplicate, on real sockets.

use super::*;
use crate::disconnect::check;

#[test]
fn both_sides_see_a_reset() {
    let table = SocketTable::open().unwrap();
    let me = std::process::id();
    for stack in STACKS {
        let pair = Pair::new(stack);
        let mut bystander = Pair::new(stack);
        let (cookie, local, remote) = pair.client_name();
        disconnect(&table, me, cookie, local, remote).unwrap();
        assert_eq!(
            read_when_ready(&pair.client),
            Err(ErrorKind::ConnectionReset),
            "{stack:?}"
        );
        assert_eq!(
            read_when_ready(&pair.server),
            Err(ErrorKind::ConnectionReset),
            "{stack:?}"
        );
        let again = disconnect(&table, me, cookie, local, remote);
        assert!(
            matches!(again, Err(DisconnectError::NotFound { .. })),
            "{again:?}"
        );
        assert!(bystander.works(), "{stack:?}");
    }
}

#[test]
fn addresses_as_the_table_shows_them_are_enough() {
    let table = SocketTable::open().unwrap();
    let pair = Pair::new(Stack::Mapped);
    let (cookie, local, remote) = pair.client_name();
    let shown = table.tcp_socket(cookie, local, remote).unwrap().unwrap();
    assert!(shown.local.is_ipv4() && local.is_ipv6());
    disconnect(&table, std::process::id(), cookie, shown.local, shown.remote).unwrap();
    assert_eq!(read_when_ready(&pair.client), Err(ErrorKind::ConnectionReset));
}

#[test]
fn another_process_loses_its_socket() {
    let table = SocketTable::open().unwrap();
    for stack in STACKS {
        let Pair {
            client,
            server,
            listener: _listener,
        } = Pair::new(stack);
        let (cookie, local, remote) = name_of(&client);
        let reader = Reader::of(client);
        disconnect(&table, reader.pid(), cookie, local, remote).unwrap();
        assert_eq!(
            read_when_ready(&server),
            Err(ErrorKind::ConnectionReset),
            "{stack:?}"
        );
        let words = reader.last_words();
        assert!(
            words.contains("reset by peer") || words.contains("Broken pipe"),
            "{stack:?}: {words}"
        );
    }
}

#[test]
fn destroying_ends_another_process_too() {
    let table = SocketTable::open().unwrap();
    for stack in STACKS {
        let Pair {
            client,
            server,
            listener: _listener,
        } = Pair::new(stack);
        let (cookie, local, remote) = name_of(&client);
        let reader = Reader::of(client);
        assert_eq!(table.destroy(cookie, local, remote).unwrap(), Destroyed::Closed);
        assert_eq!(
            read_when_ready(&server),
            Err(ErrorKind::ConnectionReset),
            "{stack:?}"
        );
        let words = reader.last_words();
        assert!(
            words.contains("Software caused connection abort"),
            "{stack:?}: {words}"
        );
    }
}

#[test]
fn a_wrong_name_or_owner_hits_nothing() {
    let table = SocketTable::open().unwrap();
    let me = std::process::id();
    let mut pair = Pair::new(Stack::V4);
    let other = Pair::new(Stack::V4);
    let (cookie, local, remote) = pair.client_name();
    let (_, other_local, _) = other.client_name();
    let stranger = Reader::of(other.client);
    for (pid, cookie, local) in [
        (me, cookie ^ 1, local),
        (me, cookie, other_local),
        (stranger.pid(), cookie, local),
    ] {
        let refused = disconnect(&table, pid, cookie, local, remote);
        assert!(
            matches!(refused, Err(DisconnectError::NotFound { .. })),
            "{refused:?}"
        );
    }
    for pid in [0, u32::MAX] {
        let refused = disconnect(&table, pid, cookie, local, remote);
        assert!(
            matches!(refused, Err(DisconnectError::NoSuchProcess { .. })),
            "{refused:?}"
        );
    }
    assert!(pair.works());
}

#[test]
fn without_the_capability_another_process_keeps_its_socket() {
    let table = SocketTable::open().unwrap();
    let mut pair = Pair::new(Stack::V4);
    let (cookie, local, remote) = pair.client_name();
    let reader = Reader::of(pair.client.try_clone().unwrap());
    let refused = without(CapabilitySet::SYS_PTRACE, || {
        disconnect(&table, reader.pid(), cookie, local, remote)
    });
    assert!(
        matches!(refused, Err(DisconnectError::NotPermitted { .. })),
        "{refused:?}"
    );
    drop(reader);
    assert!(pair.works());
}

#[test]
fn a_descriptor_that_means_another_socket_is_recognised() {
    let (pair, other) = (Pair::new(Stack::Mapped), Pair::new(Stack::Mapped));
    let (cookie, local, remote) = pair.client_name();
    let (other_cookie, other_local, _) = other.client_name();
    let duplicate = OwnedFd::from(pair.client.try_clone().unwrap());
    assert!(check(&duplicate, 1, cookie, 5, local, remote).is_ok());
    for (cookie, local, remote) in [
        (other_cookie, local, remote),
        (cookie, other_local, remote),
        (cookie, local, other_local),
    ] {
        let refused = check(&duplicate, 1, cookie, 5, local, remote);
        assert!(
            matches!(refused, Err(DisconnectError::NotTheSame { descriptor: 5, .. })),
            "{refused:?}"
        );
    }
    let file = OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap());
    let refused = check(&file, 1, cookie, 5, local, remote);
    assert!(
        matches!(refused, Err(DisconnectError::NotFound { .. })),
        "{refused:?}"
    );
}

#[test]
fn trying_a_duplicate_leaves_the_socket_as_it_is() {
    let Pair {
        client,
        mut server,
        listener: _listener,
    } = Pair::new(Stack::V4);
    let mut kept = client.try_clone().unwrap();
    let reader = Reader::of(client);
    assert!(may_duplicate(reader.pid()).unwrap());
    kept.write_all(b"x").unwrap();
    let mut byte = [0];
    server.read_exact(&mut byte).unwrap();
    drop((kept, server));
    assert_eq!(reader.last_words(), "");
    assert!(matches!(
        may_duplicate(u32::MAX),
        Err(DisconnectError::NoSuchProcess { .. })
    ));
    let refused = without(CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH, || {
        may_duplicate(1)
    });
    assert!(
        matches!(refused, Err(DisconnectError::NotPermitted { .. })),
        "{refused:?}"
    );
}
