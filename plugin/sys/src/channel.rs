//! One netlink socket to the kernel's sock_diag, and one question with its whole answer at a time.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, StateFlags};
use netlink_packet_sock_diag::{IPPROTO_TCP, SockDiagDestroy, SockDiagMessage};
use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::SocketTableError;
use crate::reply::{Content, replies};
use crate::tcp_socket::{Name, TcpSocket};

/// How long one read may wait. The kernel puts its answers into the queue before the question's `send`
/// returns, so this only ever passes when something is broken.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a whole answer may take, whatever its parts do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The kernel fills datagrams of at most 32 KiB; twice that leaves no doubt.
const DATAGRAM_LIMIT: usize = 64 * 1024;

/// What to ask.
#[derive(Debug)]
pub(crate) enum Question {
    /// All sockets of one family in these states.
    List { family: u8, states: StateFlags },
    /// One socket.
    Find(Name),
    /// End one socket.
    Destroy(Name),
}

/// How an exchange failed, and whether the channel may still be used: after a broken exchange, late answers
/// to the old question could be taken for answers to the next.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kernel answered, with an error number.
    Refused(i32),
    /// The whole list was read, but the table changed meanwhile.
    Interrupted,
    /// The channel must not be used again.
    Broken(SocketTableError),
}

#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    answer_timeout: Duration,
}

impl Channel {
    /// Opens a channel into the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, SocketTableError> {
        let opened = || -> Result<OwnedFd, Errno> {
            let socket = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(SOCK_DIAG),
            )?;
            set_socket_timeout(&socket, Timeout::Recv, Some(READ_TIMEOUT))?;
            set_socket_timeout(&socket, Timeout::Send, Some(READ_TIMEOUT))?;
            // Connected to port 0, the socket takes messages of the kernel only.
            rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
            Ok(socket)
        };
        let socket = opened().map_err(|errno| SocketTableError::Open { source: errno.into() })?;
        Ok(Self::over(socket))
    }

    fn over(socket: OwnedFd) -> Self {
        Self {
            socket,
            sequence: 0,
            buffer: vec![0; DATAGRAM_LIMIT],
            answer_timeout: ANSWER_TIMEOUT,
        }
    }

    /// Asks, and hands every socket of the answer to `visit` until the answer is complete.
    pub(crate) fn exchange(
        &mut self,
        question: &Question,
        visit: &mut dyn FnMut(TcpSocket),
    ) -> Result<(), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = encode(question, self.sequence);
        let sent = rustix::net::send(&self.socket, &bytes, SendFlags::empty())
            .map_err(|errno| broken(SocketTableError::Send { source: errno.into() }))?;
        if sent != bytes.len() {
            let source = io::Error::from(io::ErrorKind::WriteZero);
            return Err(broken(SocketTableError::Send { source }));
        }
        let one_is_all = matches!(question, Question::Find(_));
        let deadline = Instant::now() + self.answer_timeout;
        let mut interrupted = false;
        loop {
            let length = self.receive(deadline)?;
            for reply in replies(self.buffer.get(..length).unwrap_or(&[])) {
                let reply = reply.map_err(|detail| broken(SocketTableError::Malformed { detail }))?;
                if reply.sequence != self.sequence {
                    continue;
                }
                interrupted |= reply.interrupted;
                match reply.content {
                    Content::Socket(socket) => {
                        visit(*socket);
                        if one_is_all {
                            return Ok(());
                        }
                    }
                    Content::Finished if interrupted => return Err(Failure::Interrupted),
                    Content::Finished => return Ok(()),
                    Content::Refused(errno) => return Err(Failure::Refused(errno)),
                    Content::Overrun => return Err(broken(SocketTableError::AnswersLost)),
                    Content::Nothing => {}
                }
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<usize, Failure> {
        while Instant::now() < deadline {
            match rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, length)) if length > DATAGRAM_LIMIT => {
                    return Err(broken(SocketTableError::TooLong {
                        length,
                        limit: DATAGRAM_LIMIT,
                    }));
                }
                Ok((_, 0)) => {
                    return Err(broken(SocketTableError::Malformed {
                        detail: "it is empty".to_owned(),
                    }));
                }
                Ok((_, length)) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Err(broken(SocketTableError::AnswersLost)),
                Err(Errno::AGAIN) => {
                    return Err(broken(SocketTableError::Timeout { waited: READ_TIMEOUT }));
                }
                Err(errno) => return Err(broken(SocketTableError::Receive { source: errno.into() })),
            }
        }
        Err(broken(SocketTableError::Timeout {
            waited: self.answer_timeout,
        }))
    }
}

fn broken(error: SocketTableError) -> Failure {
    Failure::Broken(error)
}

fn encode(question: &Question, sequence: u32) -> Vec<u8> {
    let request = |name: &Name, states| {
        SockDiagMessage::InetRequest(InetRequest {
            family: name.family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states,
            socket_id: name.id.clone(),
        })
    };
    match question {
        Question::List { family, states } => {
            let any = Name {
                family: *family,
                id: netlink_packet_sock_diag::inet::SocketId::new_v4(),
            };
            framed(
                request(&any, states.clone()).into(),
                NLM_F_REQUEST | NLM_F_DUMP,
                sequence,
            )
        }
        Question::Find(name) => framed(request(name, StateFlags::all()).into(), NLM_F_REQUEST, sequence),
        Question::Destroy(name) => framed(
            SockDiagDestroy::new(request(name, StateFlags::all())).into(),
            NLM_F_REQUEST | NLM_F_ACK,
            sequence,
        ),
    }
}

fn framed<Body: NetlinkSerializable>(payload: NetlinkPayload<Body>, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::new(Default::default(), payload);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
