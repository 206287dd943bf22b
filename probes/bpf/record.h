/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The records in the ring buffer. src/decode.rs reads exactly these bytes:
 * native endianness, natural alignment, no implicit padding.
 */
#ifndef MAGI_RECORD_H
#define MAGI_RECORD_H

#include <linux/types.h>

#define DIRECTORY_LENGTH 64

enum record_kind {
	RECORD_FILE_TOUCHED = 1,
	RECORD_FILE_LEFT = 2,
	RECORD_SOCKET_READ = 3,
	RECORD_SOCKET_STATE = 4,
	RECORD_THREAD_VOTE = 5,
	RECORD_SOCKET_SENT = 6,
};

/* Which file of an ingest directory; a name starting so also counts. */
enum ingest_part {
	PART_OTHER = 0,
	PART_REF = 1,
	PART_STARTED_AT = 2,
	PART_UPDATED_AT = 3,
	PART_TOTAL = 4,
	PART_DATA = 5,
};

struct header {
	__u32 kind;
	/* Grows whenever a record was lost: what was said before may be stale. */
	__u32 epoch;
	/* CLOCK_MONOTONIC */
	__u64 at_ns;
	__u64 goroutine;
	/* As the observer's pid namespace numbers them. */
	__u32 tgid;
	__u32 thread;
};

struct endpoints {
	/* IPv4 fills the first four bytes, in network order. */
	__u8 local[16];
	__u8 remote[16];
	/* Host order. */
	__u16 local_port;
	__u16 remote_port;
	__u16 family;
	__u16 unused;
};

struct file_touched {
	struct header header;
	__u64 inode;
	/* The kernel's own encoding: major << 20 | minor. */
	__u32 dev;
	__u32 part;
	char directory[DIRECTORY_LENGTH];
};

struct file_left {
	struct header header;
	__u64 inode;
	__u32 dev;
	__u32 unused;
};

struct socket_read {
	struct header header;
	__u64 cookie;
	/* Read by this goroutine, with no other reader in between, since it last changed directory. */
	__u64 bytes_by_goroutine;
	/* Read on this socket by anybody since it was first seen. */
	__u64 bytes_total;
	struct endpoints endpoints;
};

struct socket_state {
	struct header header;
	__u64 cookie;
	struct endpoints endpoints;
	__u32 state;
	__u32 owned;
};

struct socket_sent {
	struct header header;
	__u64 cookie;
};

struct thread_vote {
	struct header header;
	__u64 cookie;
	__u64 bytes;
	__u64 inode;
	__u32 dev;
	__u32 unused;
	char directory[DIRECTORY_LENGTH];
};

#endif
