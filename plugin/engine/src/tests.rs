//! Tests of the engine as a whole: scenarios by hand, and random stories against the invariants of DESIGN.md §9.

mod build;
mod check;
mod random;
mod world;
