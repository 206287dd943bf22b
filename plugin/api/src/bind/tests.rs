//! Who may have a socket, and what is left of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::tests::folder;
use crate::{BindError, bind};

#[tokio::test]
async fn a_second_node_is_refused_and_a_stale_socket_replaced() {
    let (_keep, socket) = folder();
    let first = bind(&socket).unwrap();
    assert!(matches!(bind(&socket), Err(BindError::Locked { .. })));
    drop(first);

    // A node that was killed leaves its socket and lock behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    fs::write(socket.with_extension("sock.lock"), "").unwrap();
    fs::write(socket.with_extension("sock.new"), "").unwrap();
    let again = bind(&socket).unwrap();
    assert_eq!(again.path(), socket);
    drop(again);

    // Whoever answers without our lock is respected as well, with a full backlog too.
    let other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(bind(&socket), Err(BindError::Answered { .. })));
    rustix::net::listen(&other, 0).unwrap();
    let _waiting = fill_backlog(&socket);
    assert!(matches!(bind(&socket), Err(BindError::Answered { .. })));
    drop(other);
    fs::remove_file(&socket).unwrap();

    fs::write(&socket, "precious").unwrap();
    assert!(matches!(bind(&socket), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

/// Connects until the kernel says that no more connections may wait.
fn fill_backlog(socket: &std::path::Path) -> Vec<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let address = SocketAddrUnix::new(socket).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..16 {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        match connect(&stream, &address) {
            Ok(()) => waiting.push(stream),
            Err(errno) => {
                assert_eq!(errno, rustix::io::Errno::AGAIN);
                return waiting;
            }
        }
    }
    panic!("the backlog does not fill");
}

#[tokio::test]
async fn a_node_that_was_replaced_does_not_remove_its_successor() {
    let (_keep, socket) = folder();
    let bound = bind(&socket).unwrap();
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "successor").unwrap();
    drop(bound);
    assert_eq!(fs::read_to_string(&socket).unwrap(), "successor");
}

#[test]
fn folders_that_others_can_write_and_impossible_names_are_refused() {
    let (_keep, socket) = folder();
    let folder = socket.parent().unwrap();
    fs::create_dir(folder).unwrap();
    for mode in [0o777, 0o770, 0o1777] {
        fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
        assert!(
            matches!(bind(&socket), Err(BindError::UnsafeFolder { .. })),
            "{mode:o}"
        );
    }
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(
        bind(&folder.join("x".repeat(120))),
        Err(BindError::NotAnAddress { .. })
    ));
    assert!(matches!(
        bind(std::path::Path::new("/")),
        Err(BindError::NotAName { .. })
    ));
    fs::write(folder.join("file"), "").unwrap();
    assert!(matches!(
        bind(&folder.join("file/node.sock")),
        Err(BindError::Folder { .. })
    ));
    let made = bind(&folder.join("deeper/still/node.sock")).unwrap();
    assert_eq!(
        fs::metadata(folder.join("deeper")).unwrap().permissions().mode() & 0o777,
        0o700
    );
    drop(made);
}
