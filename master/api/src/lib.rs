//! The contract between node and master: one stream per node, which each side takes for hostile.
//!
//! [`message`] has the values that both sides speak in; [`decode`] and [`encode`] are the only places that see what is
//! generated from `proto/`. [`client`] is the node's side of a stream; the master's lies in `magi-master`.

pub mod backoff;
pub mod bounds;
pub mod client;
pub mod codec;
pub mod decode;
pub mod encode;
pub mod keep;
pub mod message;
pub mod policy;
pub mod seen;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod wire;
