//! How things look to people.

pub(crate) mod doctor;
pub(crate) mod escape;
mod owner;
pub(crate) mod pods;
pub(crate) mod pulls;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod time;
