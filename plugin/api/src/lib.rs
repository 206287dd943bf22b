//! The contract on magi-node's control socket, for both of its ends.
//!
//! A unix stream socket that only root can open. Each line is one JSON document: a request such as
//! `{"v":1,"ask":"pulls","ended":false}` goes in, one answer comes out, `{"v":1,"reply":{…}}`, `{"v":1,"status":{…}}` or
//! `{"v":1,"error":{"code":"…","message":"…"}}`; a connection may carry several, one after the other. Requests are bounded
//! by [`MAX_REQUEST`] and answers by [`MAX_ANSWER`]. Who asks is read from the socket's peer credentials, never from
//! the request.
//!
//! magi-node calls [`bind()`] and [`serve`]; magictl uses [`Client`]. magi-gateway turns its connection into a conversation
//! ([`gateway`]).

mod bind;
mod client;
pub mod gateway;
mod line;
mod reply;
mod request;
mod server;
mod status;

pub use bind::{BindError, ControlSocket, OpenSocket, bind, take_over};
pub use client::{Client, ClientError, Patience};
pub use line::{MAX_ANSWER, MAX_REQUEST, VERSION};
pub use reply::{ErrorCode, Refusal, Reply};
pub use request::{Ask, Peer, Request};
pub use server::{Handler, Limits, ServeError, serve};
pub use status::{
    ContainerdStatus, GatewayStatus, MAX_VERIFIED, NodeStatus, PolicyStatus, SourceStatus, Verified,
    VerifierStatus,
};

/// Where magi-node listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/magi/node.sock";

#[cfg(test)]
mod tests;
