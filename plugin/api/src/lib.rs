//! The node's control contract.
