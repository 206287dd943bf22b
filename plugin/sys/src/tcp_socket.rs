//! One TCP socket as the kernel describes it, and which of them to ask for.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6};

use crate::error::SocketTableError;

/// Where `tcpi_bytes_received` stands in the kernel's `struct tcp_info`, which only ever grows at its end
/// (the field is there since Linux 4.1).
const BYTES_RECEIVED: std::ops::Range<usize> = 128..136;

/// The kernel's "any cookie".
const WILDCARD_COOKIE: u64 = u64::MAX;

/// Where a TCP connection stands, by the kernel's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpState {
    /// Data can flow.
    Established,
    /// Connecting.
    SynSent,
    /// Being connected to; not accepted yet and without an inode.
    SynReceived,
    /// Closed by us, not yet acknowledged.
    FinWait1,
    /// Closed by us and acknowledged; the peer may still send.
    FinWait2,
    /// Over; only its addresses are still reserved.
    TimeWait,
    /// Not connected.
    Close,
    /// Closed by the peer; we may still send.
    CloseWait,
    /// Closed by both, ours not yet acknowledged.
    LastAck,
    /// Accepting connections.
    Listen,
    /// Closed by both at once.
    Closing,
    /// A number that this program does not know.
    Other(u8),
}

impl TcpState {
    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            other => Self::Other(other),
        }
    }
}

/// Which sockets to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpFilter {
    pub(crate) states: StateFlags,
}

impl TcpFilter {
    /// Connections over which data can flow in both directions.
    #[must_use]
    pub fn established() -> Self {
        Self {
            states: StateFlags::ESTABLISHED,
        }
    }

    /// Sockets that accept connections.
    #[must_use]
    pub fn listening() -> Self {
        Self {
            states: StateFlags::LISTEN,
        }
    }

    /// Every state in which a process may hold the socket by a descriptor.
    #[must_use]
    pub fn held() -> Self {
        Self {
            states: StateFlags::all().difference(StateFlags::TIME_WAIT | StateFlags::SYN_RECV),
        }
    }

    /// Everything in the table.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            states: StateFlags::all(),
        }
    }

    pub(crate) fn nothing() -> Self {
        Self {
            states: StateFlags::empty(),
        }
    }
}

/// One TCP socket, at the moment it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSocket {
    /// The kernel's number for this socket: never used twice while the kernel runs.
    pub cookie: u64,
    /// The socket's own address. IPv4-mapped IPv6 addresses are shown as the IPv4 address they mean.
    pub local: SocketAddr,
    /// The peer's address, shown likewise; unspecified with port 0 if there is no peer.
    pub remote: SocketAddr,
    /// Whether this is an IPv6 socket that talks IPv4 (as dual-stack programs make them).
    pub v4_mapped: bool,
    /// The network interface that the socket is bound to; 0 if to none.
    pub interface: u32,
    /// Where the connection stands.
    pub state: TcpState,
    /// The inode behind the owner's descriptor; 0 when no process holds the socket any more.
    pub inode: u64,
    /// The user that made the socket.
    pub uid: u32,
    /// Bytes that have arrived and that the owner has not read (for a listener: connections not yet accepted).
    pub unread: u32,
    /// Bytes that have arrived in order since the connection began, read or not, without headers of TCP. A FIN
    /// counts as one. `None` where the kernel does not say (old kernels, and sockets past their end).
    pub bytes_received: Option<u64>,
}

impl TcpSocket {
    /// Bytes that the owner has taken out of the socket.
    #[must_use]
    pub fn bytes_read(&self) -> Option<u64> {
        self.bytes_received
            .map(|received| received.saturating_sub(u64::from(self.unread)))
    }

    pub(crate) fn from_response(response: &InetResponse) -> Self {
        let header = &response.header;
        let id = &header.socket_id;
        Self {
            cookie: u64::from_ne_bytes(id.cookie),
            local: shown(id.source_address, id.source_port, id.interface_id),
            remote: shown(id.destination_address, id.destination_port, id.interface_id),
            v4_mapped: is_mapped(id.source_address),
            interface: id.interface_id,
            state: TcpState::from_number(header.state),
            inode: u64::from(header.inode),
            uid: header.uid,
            unread: header.recv_queue,
            bytes_received: response.nlas.iter().find_map(bytes_received),
        }
    }
}

fn bytes_received(attribute: &Nla) -> Option<u64> {
    let Nla::TcpInfo(info) = attribute else {
        return None;
    };
    let bytes = info.get(BYTES_RECEIVED)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

fn is_mapped(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    }
}

/// Link-local addresses mean nothing without their interface, so it becomes their scope.
fn shown(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(address, port),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), port),
            None => {
                let scope = if v6.is_unicast_link_local() { interface } else { 0 };
                SocketAddr::V6(SocketAddrV6::new(v6, port, 0, scope))
            }
        },
    }
}

/// An address as two programs would both write it: IPv4-mapped addresses become IPv4, flow labels are dropped.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => shown(IpAddr::V6(*v6.ip()), v6.port(), v6.scope_id()),
    }
}

/// A socket's name in the kernel's words: address family and identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) family: u8,
    pub(crate) id: SocketId,
}

/// The names under which the kernel may know the socket, likeliest first. A socket that talks IPv4 may be an
/// IPv6 socket with mapped addresses, and which of the two cannot be told from outside.
pub(crate) fn names(
    cookie: u64,
    local: SocketAddr,
    remote: SocketAddr,
    interface: u32,
) -> Result<Vec<Name>, SocketTableError> {
    if cookie == 0 || cookie == WILDCARD_COOKIE {
        return Err(SocketTableError::InvalidCookie { cookie });
    }
    let name = |family, source_address, destination_address, interface_id| Name {
        family,
        id: SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address,
            destination_address,
            interface_id,
            cookie: cookie.to_ne_bytes(),
        },
    };
    match (plain(local), plain(remote)) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let mapped = |address: &std::net::SocketAddrV4| IpAddr::V6(address.ip().to_ipv6_mapped());
            Ok(vec![
                name(AF_INET, IpAddr::V4(*from.ip()), IpAddr::V4(*to.ip()), interface),
                name(AF_INET6, mapped(&from), mapped(&to), interface),
            ])
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let scope = [interface, from.scope_id(), to.scope_id()]
                .into_iter()
                .find(|scope| *scope != 0);
            Ok(vec![name(
                AF_INET6,
                IpAddr::V6(*from.ip()),
                IpAddr::V6(*to.ip()),
                scope.unwrap_or(0),
            )])
        }
        (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => {
            Err(SocketTableError::MixedFamilies { local, remote })
        }
    }
}
