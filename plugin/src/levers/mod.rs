//! What magi can do to a pull: [`magi_engine::Lever`] → effect → outcome. Levers choose nothing: the engine said what,
//! and a target that is not what it was is left alone.

mod calls;
mod cleanup;
mod sockets;

pub(crate) use calls::Calls;
pub(crate) use cleanup::{Removal, Remover};
pub(crate) use sockets::Sockets;
