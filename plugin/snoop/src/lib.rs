//! What clients say to containerd over its CRI socket, read off the bytes that pass: `PullImage` requests and their ends.
