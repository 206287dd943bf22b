//! Tests of the engine as a whole: scenarios by hand, and random stories against the invariants of DESIGN.md §9.

mod asking;
mod bounding;
mod build;
mod calling_back;
mod check;
mod ending;
mod headroom;
mod judging;
mod keeping;
mod losing;
mod orphaned;
mod owning;
mod pursuing;
mod random;
mod scene;
mod starving;
mod switching;
mod world;
