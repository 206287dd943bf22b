//! magi-ctl
