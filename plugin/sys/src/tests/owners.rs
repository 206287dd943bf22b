//! Which process owns which socket.

use std::os::fd::AsRawFd;

use super::*;

fn find(owned: &OwnedTcp, stream: &TcpStream) -> Option<OwnedSocket> {
    let cookie = socket_cookie(stream).unwrap();
    owned
        .sockets
        .iter()
        .find(|owned| owned.socket.cookie == cookie)
        .cloned()
}

#[test]
fn the_process_owns_both_ends_but_connected_only_one() {
    let table = SocketTable::open().unwrap();
    for stack in STACKS {
        let pair = Pair::new(stack);
        let owned = owned_tcp(std::process::id(), &table).unwrap();
        assert!(
            owned.listening.contains(&pair.listener.local_addr().unwrap()),
            "{stack:?}"
        );
        let client = find(&owned, &pair.client).unwrap();
        assert_eq!(client.descriptor, pair.client.as_raw_fd());
        assert_eq!(
            find(&owned, &pair.server).unwrap().descriptor,
            pair.server.as_raw_fd()
        );
        let server = socket_cookie(&pair.server).unwrap();
        assert!(
            owned.connected().any(|connected| *connected == client),
            "{stack:?}"
        );
        assert!(
            !owned
                .connected()
                .any(|connected| connected.socket.cookie == server),
            "{stack:?}"
        );
    }
}

#[test]
fn a_dual_stack_listener_accepts_both_families() {
    let table = SocketTable::open().unwrap();
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for to in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let client = TcpStream::connect(&to).unwrap();
        let (server, _) = listener.accept().unwrap();
        let owned = owned_tcp(std::process::id(), &table).unwrap();
        let (client, server) = (find(&owned, &client).unwrap(), find(&owned, &server).unwrap());
        let connected: Vec<&OwnedSocket> = owned.connected().collect();
        assert!(
            connected.contains(&&client) && !connected.contains(&&server),
            "{to}"
        );
    }
}

#[test]
fn of_several_descriptors_the_lowest_is_told() {
    let pair = Pair::new(Stack::V4);
    let copy = pair.client.try_clone().unwrap();
    let inode = rustix::fs::fstat(&copy).unwrap().st_ino;
    let lowest = pair.client.as_raw_fd().min(copy.as_raw_fd());
    assert_eq!(
        socket_inodes(std::process::id()).unwrap().get(&inode),
        Some(&lowest)
    );
}

#[test]
fn a_childs_socket_is_the_childs_alone() {
    let table = SocketTable::open().unwrap();
    let Pair {
        client,
        server: _server,
        listener: _listener,
    } = Pair::new(Stack::Mapped);
    let (cookie, ..) = name_of(&client);
    let reader = Reader::of(client);
    let has = |pid| {
        owned_tcp(pid, &table)
            .unwrap()
            .connected()
            .any(|owned| owned.socket.cookie == cookie)
    };
    assert!(has(reader.pid()));
    assert!(!has(std::process::id()));
    let owned = owned_tcp(reader.pid(), &table).unwrap();
    assert_eq!(
        owned
            .sockets
            .iter()
            .map(|owned| owned.descriptor)
            .collect::<Vec<_>>(),
        [0]
    );
}

#[test]
fn processes_that_are_gone_or_guarded_are_told_apart() {
    assert!(matches!(
        socket_inodes(u32::MAX),
        Err(OwnerError::NoSuchProcess { .. })
    ));
    let pair = Pair::new(Stack::V4);
    let reader = Reader::of(pair.client.try_clone().unwrap());
    let guarded = without(CapabilitySet::SYS_PTRACE, || socket_inodes(reader.pid()));
    assert!(
        matches!(guarded, Err(OwnerError::NotPermitted { .. })),
        "{guarded:?}"
    );
}
