//! Everything that tells magi something: outside → [`magi_engine::Event`]. Sources know neither one another nor the
//! levers; they meet in [`crate::node`].

pub(crate) mod containerd;
pub(crate) mod kernel;
#[cfg_attr(
    not(test),
    expect(dead_code, unused_imports, reason = "wired when the engine knows pods")
)]
pub(crate) mod nri;
pub(crate) mod socket_table;
