//! Everything that tells magi something: outside → [`magi_engine::Event`]. Sources know neither one another nor the
//! levers; they meet in [`crate::node`].

pub(crate) mod containerd;
pub(crate) mod disk;
pub(crate) mod gateway;
pub(crate) mod kernel;
pub(crate) mod master;
pub(crate) mod nri;
pub(crate) mod requests;
pub(crate) mod socket_table;
pub(crate) mod switch;
