//! The lever in an operator's hand: SOCK_DESTROY of one connection whose addresses are known.
//!
//! `ss -K` does the same, but spends milliseconds on starting a process and listing every socket. Here the socket is
//! open already and one message is sent, so that what magi is compared with is as fast as it can be.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, IPPROTO_TCP, SockDiagDestroy, SockDiagMessage};
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// "Whatever its cookie": the addresses of a connection that is known to live name it well enough.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// An open way to the kernel.
#[derive(Debug)]
pub(crate) struct Lever(OwnedFd);

impl Lever {
    /// Opens it.
    pub(crate) fn open() -> Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(SOCK_DIAG),
        )
        .context("open a sock_diag socket")?;
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(1))).context("set a timeout")?;
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0)).context("connect to the kernel")?;
        Ok(Self(socket))
    }

    /// Ends the IPv4 connection that `owner` has to `peer`, on the owner's side.
    pub(crate) fn pull(&self, owner: SocketAddr, peer: SocketAddr) -> Result<()> {
        let (IpAddr::V4(_), IpAddr::V4(_)) = (owner.ip(), peer.ip()) else {
            bail!("{owner} or {peer} is not IPv4");
        };
        let mut id = SocketId::new_v4();
        id.source_address = owner.ip();
        id.source_port = owner.port();
        id.destination_address = peer.ip();
        id.destination_port = peer.port();
        id.cookie = ANY_COOKIE;
        let request = SockDiagDestroy::new(SockDiagMessage::InetRequest(InetRequest {
            family: AF_INET,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: id,
        }));
        let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::from(request));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.0, &bytes, SendFlags::empty()).context("ask the kernel")?;
        let mut answer = [0; 512];
        let (_, length) = rustix::net::recv(&self.0, answer.as_mut_slice(), RecvFlags::empty())
            .context("hear the kernel's answer")?;
        // The answer is an error message with its number behind the 16 bytes of the header; 0 is the acknowledgement.
        let number = answer
            .get(16..20)
            .filter(|_| length >= 20)
            .context("a short answer")?;
        match i32::from_ne_bytes(number.try_into().context("four bytes")?) {
            0 => Ok(()),
            code => bail!(
                "the kernel does not end {owner} → {peer}: {}",
                std::io::Error::from_raw_os_error(code.saturating_neg())
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::Lever;

    #[test]
    fn the_named_connection_ends_and_its_neighbour_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address");
        let connect = || {
            let client = TcpStream::connect(address).expect("connect");
            (client, listener.accept().expect("accept").0)
        };
        let (mut victim, _victim_peer) = connect();
        let (mut neighbour, neighbour_peer) = connect();
        let lever = Lever::open().expect("open");
        lever
            .pull(victim.local_addr().expect("address"), address)
            .expect("the kernel agrees");
        let error = victim.read(&mut [0; 1]).expect_err("it was ended");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        drop(neighbour_peer);
        assert_eq!(neighbour.read(&mut [0; 1]).expect("a clean end"), 0);
        assert!(
            lever
                .pull(victim.local_addr().unwrap_or(address), address)
                .is_err()
        );
    }
}
