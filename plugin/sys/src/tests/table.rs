//! Listing and destroying, on real sockets.

use netlink_packet_sock_diag::AF_INET;

use super::*;

#[test]
fn every_stack_is_listed_with_its_facts() {
    let table = SocketTable::open().unwrap();
    for stack in STACKS {
        let mut pair = Pair::new(stack);
        let (cookie, local, remote) = pair.client_name();
        pair.server.write_all(&[7; 100_000]).unwrap();
        let mut some = [0; 60_000];
        pair.client.read_exact(&mut some).unwrap();
        // What is left is in flight at most; it has arrived when a peek shows all of it.
        let mut rest = [0; 40_000];
        while pair.client.peek(&mut rest).unwrap() < rest.len() {}

        let all = table.tcp_sockets(&TcpFilter::established()).unwrap();
        let listed = all.iter().find(|socket| socket.cookie == cookie).unwrap();
        let found = table.tcp_socket(cookie, local, remote).unwrap().unwrap();
        assert_eq!(*listed, found, "{stack:?}");
        assert_eq!(found.bytes_received, Some(100_000), "{stack:?}");
        assert_eq!(
            (found.unread, found.bytes_read()),
            (40_000, Some(60_000)),
            "{stack:?}"
        );
        assert_eq!(found.state, TcpState::Established);
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert_eq!(found.v4_mapped, matches!(stack, Stack::Mapped));
        let shown = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        assert_eq!((found.local, found.remote), (shown(local), shown(remote)));
        assert_eq!(found.remote.is_ipv6(), matches!(stack, Stack::V6));
        assert_eq!(found.inode, rustix::fs::fstat(&pair.client).unwrap().st_ino);
    }
}

#[test]
fn the_filter_decides_what_is_listed() {
    let table = SocketTable::open().unwrap();
    let pair = Pair::new(Stack::V4);
    let listener = socket_cookie(&pair.listener).unwrap();
    let (client, ..) = pair.client_name();
    let cookies = |filter| -> Vec<u64> {
        table
            .tcp_sockets(&filter)
            .unwrap()
            .iter()
            .map(|socket| socket.cookie)
            .collect()
    };
    let established = cookies(TcpFilter::established());
    assert!(established.contains(&client) && !established.contains(&listener));
    let listening = cookies(TcpFilter::listening());
    assert!(!listening.contains(&client) && listening.contains(&listener));
    for filter in [TcpFilter::held(), TcpFilter::everything()] {
        let both = cookies(filter);
        assert!(both.contains(&client) && both.contains(&listener));
    }
}

#[test]
fn destroying_ends_the_socket_for_both_sides_once() {
    let table = SocketTable::open().unwrap();
    for stack in STACKS {
        let pair = Pair::new(stack);
        let mut bystander = Pair::new(stack);
        let (cookie, local, remote) = pair.client_name();
        assert_eq!(
            table.destroy(cookie, local, remote).unwrap(),
            Destroyed::Closed,
            "{stack:?}"
        );
        assert_eq!(
            read_when_ready(&pair.client),
            Err(ErrorKind::ConnectionAborted),
            "{stack:?}"
        );
        assert_eq!(
            read_when_ready(&pair.server),
            Err(ErrorKind::ConnectionReset),
            "{stack:?}"
        );
        assert_eq!(
            table.destroy(cookie, local, remote).unwrap(),
            Destroyed::AlreadyGone,
            "{stack:?}"
        );
        assert_eq!(
            table.tcp_socket(cookie, local, remote).unwrap(),
            None,
            "{stack:?}"
        );
        assert!(bystander.works(), "{stack:?}");
    }
}

#[test]
fn what_the_table_shows_can_be_destroyed() {
    let table = SocketTable::open().unwrap();
    for stack in STACKS {
        let pair = Pair::new(stack);
        let (cookie, ..) = pair.client_name();
        let all = table
            .tcp_sockets_where(&TcpFilter::established(), |socket| socket.cookie == cookie)
            .unwrap();
        let [socket] = all.as_slice() else {
            panic!("{all:?}")
        };
        // The shown addresses are enough, also of a socket that is IPv6 inside.
        assert!(
            table
                .tcp_socket(cookie, socket.local, socket.remote)
                .unwrap()
                .is_some(),
            "{stack:?}"
        );
        assert_eq!(
            table.destroy_socket(socket).unwrap(),
            Destroyed::Closed,
            "{stack:?}"
        );
        assert_eq!(
            read_when_ready(&pair.client),
            Err(ErrorKind::ConnectionAborted),
            "{stack:?}"
        );
        let again = Pair::new(stack);
        let (cookie, local, remote) = again.client_name();
        let shown = table.tcp_socket(cookie, local, remote).unwrap().unwrap();
        assert_eq!(
            table.destroy(cookie, shown.local, shown.remote).unwrap(),
            Destroyed::Closed,
            "{stack:?}"
        );
        assert_eq!(
            read_when_ready(&again.client),
            Err(ErrorKind::ConnectionAborted),
            "{stack:?}"
        );
    }
}

#[test]
fn a_wrong_name_hits_nothing() {
    let table = SocketTable::open().unwrap();
    for stack in STACKS {
        let mut pair = Pair::new(stack);
        let mut other = Pair::new(stack);
        let (cookie, local, remote) = pair.client_name();
        let (other_cookie, other_local, _) = other.client_name();
        for (cookie, local, remote) in [
            (cookie ^ 1, local, remote),
            (cookie | 1 << 63, local, remote),
            (other_cookie, local, remote),
            (cookie, other_local, remote),
            (cookie, remote, local),
        ] {
            assert_eq!(
                table.destroy(cookie, local, remote).unwrap(),
                Destroyed::AlreadyGone,
                "{stack:?}"
            );
            assert_eq!(
                table.tcp_socket(cookie, local, remote).unwrap(),
                None,
                "{stack:?}"
            );
        }
        assert!(pair.works() && other.works(), "{stack:?}");
    }
}

#[test]
fn wildcards_and_impossible_pairs_are_refused() {
    let table = SocketTable::open().unwrap();
    let mut pair = Pair::new(Stack::V4);
    let (cookie, local, remote) = pair.client_name();
    for wrong in [0, u64::MAX] {
        let refused = table.destroy(wrong, local, remote);
        assert!(
            matches!(refused, Err(SocketTableError::InvalidCookie { .. })),
            "{refused:?}"
        );
    }
    let refused = table.destroy(cookie, local, "[::1]:80".parse().unwrap());
    assert!(
        matches!(refused, Err(SocketTableError::MixedFamilies { .. })),
        "{refused:?}"
    );
    assert!(pair.works());
}

#[test]
fn without_the_capability_nothing_is_destroyed() {
    let table = SocketTable::open().unwrap();
    let mut pair = Pair::new(Stack::V4);
    let (cookie, local, remote) = pair.client_name();
    let refused = without(CapabilitySet::NET_ADMIN, || table.destroy(cookie, local, remote));
    assert!(
        matches!(refused, Err(SocketTableError::NotPermitted)),
        "{refused:?}"
    );
    assert!(pair.works());
    assert_eq!(table.destroy(cookie, local, remote).unwrap(), Destroyed::Closed);
}

#[test]
fn a_list_beyond_its_bound_is_an_error_and_the_next_one_works() {
    let table = SocketTable::open().unwrap();
    // Enough for the list to fill several datagrams.
    let pairs: Vec<Pair> = (0..150).map(|_| Pair::new(Stack::V4)).collect();
    let cookies: Vec<u64> = pairs.iter().map(|pair| pair.client_name().0).collect();
    let ours = |socket: &TcpSocket| cookies.contains(&socket.cookie);
    let list = |room| table.list(AF_INET, &TcpFilter::established(), &ours, room);
    for _ in 0..2 {
        assert!(matches!(list(149), Err(SocketTableError::TooManySockets { .. })));
        assert_eq!(list(150).unwrap().len(), 150);
    }
}

#[test]
fn threads_share_a_table() {
    let table = SocketTable::open().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..20 {
                    let pair = Pair::new(STACKS[round % STACKS.len()]);
                    let (cookie, local, remote) = pair.client_name();
                    let all = table.tcp_sockets(&TcpFilter::held()).unwrap();
                    assert!(all.iter().any(|socket| socket.cookie == cookie));
                    assert_eq!(table.destroy(cookie, local, remote).unwrap(), Destroyed::Closed);
                    assert_eq!(table.tcp_socket(cookie, local, remote).unwrap(), None);
                }
            });
        }
    });
}

#[test]
fn what_is_left_of_an_ended_connection_is_already_gone() {
    let table = SocketTable::open().unwrap();
    let Pair {
        client,
        mut server,
        listener: _listener,
    } = Pair::new(Stack::V4);
    let (cookie, local, remote) = name_of(&client);
    drop(client);
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    drop(server);
    // The side that closed first is in TIME_WAIT, or about to be.
    let destroyed = table.destroy(cookie, local, remote).unwrap();
    assert!(matches!(destroyed, Destroyed::Closed | Destroyed::AlreadyGone));
    assert_eq!(
        table.destroy(cookie, local, remote).unwrap(),
        Destroyed::AlreadyGone
    );
}
