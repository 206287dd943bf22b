//! magi's node agent: it watches image pulls, decides in [`magi_engine`], and stops exactly the bad one.
//!
//! [`node`] wires the parts; `core` is the loop around the engine; `sources` tell it what happens, `levers` carry out
//! what it decides, `audit` keeps the record, and
//! `policies` says which policy is in force.

mod asking;
mod audit;
mod causes;
mod clock;
mod containerd;
mod core;
mod files;
mod gateways;
mod inbox;
mod levers;
mod manifest;
pub mod node;
mod policies;
mod recorder;
pub mod replay;
mod resolver;
mod sources;
