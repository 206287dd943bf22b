//! From the bytes of a sock_diag answer to typed messages, trusting nothing about them.

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;

use crate::tcp_socket::TcpSocket;

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The number of the question that this answers.
    pub(crate) sequence: u32,
    /// The table changed under the listing.
    pub(crate) interrupted: bool,
    pub(crate) content: Content,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Socket(Box<TcpSocket>),
    /// The end of a list, or the acknowledgement of a command.
    Finished,
    /// The kernel's error number, positive.
    Refused(i32),
    Nothing,
    Overrun,
}

/// The messages of one datagram, up to and including the first malformed one.
pub(crate) fn replies(datagram: &[u8]) -> Replies<'_> {
    Replies { rest: datagram }
}

pub(crate) struct Replies<'datagram> {
    rest: &'datagram [u8],
}

impl Iterator for Replies<'_> {
    type Item = Result<Reply, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let outcome = self.advance();
        if outcome.is_err() {
            self.rest = &[];
        }
        Some(outcome)
    }
}

impl Replies<'_> {
    fn advance(&mut self) -> Result<Reply, String> {
        let length = NetlinkBuffer::new_checked(self.rest)
            .map_err(|error| error.to_string())?
            .length();
        let length = usize::try_from(length).map_err(|error| error.to_string())?;
        let message = self
            .rest
            .get(..length)
            .ok_or("a message is longer than its datagram")?;
        let reply = decode(message)?;
        // The last message of a datagram need not be padded.
        let step = length.next_multiple_of(usize::from(NLMSG_ALIGNTO));
        self.rest = self.rest.get(step..).unwrap_or(&[]);
        Ok(reply)
    }
}

fn decode(message: &[u8]) -> Result<Reply, String> {
    let (header, payload) = NetlinkMessage::<SockDiagMessage>::deserialize(message)
        .map_err(|error| error.to_string())?
        .into_parts();
    let content = match payload {
        NetlinkPayload::InnerMessage(message) => Content::Socket(socket(&message)?),
        NetlinkPayload::Done(done) => ended(done.code),
        NetlinkPayload::Error(error) => ended(error.raw_code()),
        NetlinkPayload::Noop => Content::Nothing,
        NetlinkPayload::Overrun(_) => Content::Overrun,
        _ => return Err(format!("unknown message type {}", header.message_type)),
    };
    Ok(Reply {
        sequence: header.sequence_number,
        interrupted: header.flags & NLM_F_DUMP_INTR != 0,
        content,
    })
}

fn socket(message: &SockDiagMessage) -> Result<Box<TcpSocket>, String> {
    if let SockDiagMessage::InetResponse(response) = message {
        Ok(Box::new(TcpSocket::from_response(response)))
    } else {
        Err("neither IPv4 nor IPv6".to_owned())
    }
}

/// Negative codes are errors; what the kernel says otherwise at the end of a list has no meaning.
fn ended(code: i32) -> Content {
    match code.checked_neg() {
        Some(errno) if errno > 0 => Content::Refused(errno),
        Some(_) | None => Content::Finished,
    }
}

#[cfg(test)]
mod tests;
