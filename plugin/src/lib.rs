//! magi-plugin
