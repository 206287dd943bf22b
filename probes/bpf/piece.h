/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the ring of the conversations carries. src/conversations/decode.rs reads exactly these bytes:
 * native endianness, natural alignment, no implicit padding.
 */
#ifndef MAGI_PIECE_H
#define MAGI_PIECE_H

#include <linux/types.h>

enum piece_kind {
	KIND_PIECE = 1,
	KIND_CLOSED = 2,
};

enum direction {
	TO_SERVER = 0,
	FROM_SERVER = 1,
};

/* `length` bytes follow; after them, up to the record's end, is what the ring held before. */
struct piece {
	__u32 kind;
	__u32 direction;
	__u64 connection;
	/* Bytes that passed in this direction before the first byte of this piece. */
	__u64 offset;
	/* CLOCK_MONOTONIC */
	__u64 at_ns;
	__u32 length;
	/* The watched process, as the observer's pid namespace numbers it. */
	__u32 tgid;
};

#endif
