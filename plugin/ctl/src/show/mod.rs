//! How things look to people.

pub(crate) mod escape;
pub(crate) mod pulls;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod time;
