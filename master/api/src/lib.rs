//! The contract between node and master.
