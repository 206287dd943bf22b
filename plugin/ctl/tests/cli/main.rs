//! magictl as a process, against a node and a containerd that are fake.
#![cfg(test)]

mod containerd;
mod doctor;
mod install;
mod node;
mod policy;
mod pull;
mod questions;
mod run;
