//! magi-node-api
