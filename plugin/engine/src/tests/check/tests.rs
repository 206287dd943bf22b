//! Each checker must be able to fail: it is fed a bad effect.
