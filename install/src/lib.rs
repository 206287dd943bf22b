//! containerd's configuration: what magi adds to it, and how it is taken away again to the byte.
