//! The kernel, asked directly.
