/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The maps, and how a record begins.
 */
#ifndef MAGI_MAPS_H
#define MAGI_MAPS_H

#include "record.h"
#include "watch.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} epoch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} records SEC(".maps");

/* One file, told apart also from a later file with the same inode number. */
struct file_key {
	__u64 super_block;
	__u64 inode;
	__u32 generation;
	__u32 set;
};

struct goroutine_key {
	__u64 goroutine;
	__u32 tgid;
	__u32 unused;
};

struct goroutine {
	/* The file examined last and its directory: the same again needs no walk. */
	struct file_key seen;
	__u64 seen_directory;
	/* The `data` file this goroutine writes, if any, and its size when last looked at. */
	struct file_key data;
	__s64 data_size;
	/* A file without a name that it changed last, and its size then. */
	struct file_key nameless;
	__s64 nameless_size;
	/* The socket it read last, the bytes of that run, and where to speak next. */
	__u64 cookie;
	__u64 run;
	__u64 mark;
	__u64 said_at_ns;
	/* Bytes from any socket since it took its ingest directory. */
	__u64 read_in_directory;
	__u32 epoch;
	__u8 seen_is_data;
	__u8 has_directory;
	/* Another socket was read since `data` was last reported. */
	__u8 confirm;
	__u8 part;
	char directory[DIRECTORY_LENGTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct goroutine_key);
	__type(value, struct goroutine);
} goroutines SEC(".maps");

/* All zeroes: a new goroutine, too large to build on the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct goroutine);
} blank SEC(".maps");

struct socket_entry {
	__u64 bytes;
	__u64 reader;
	__u32 reader_tgid;
	__u32 owned;
	/* Counts the changes of reader: the transport itself reads the head of each response. */
	__u64 turn;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct socket_entry);
} sockets SEC(".maps");

/* What a thread read last, and which file it wrote since: no second file may claim the same read. */
struct thread_entry {
	__u64 cookie;
	__u64 read_at_ns;
	__u64 file;
	__u64 credited;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct thread_entry);
} threads SEC(".maps");

struct vote_key {
	__u64 cookie;
	__u64 turn;
	__u64 super_block;
	__u64 inode;
};

struct vote {
	__u64 bytes;
	__u64 mark;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct vote_key);
	__type(value, struct vote);
} votes SEC(".maps");

struct caller {
	__u64 goroutine;
	__u32 tgid;
	__u32 thread;
	__u32 epoch;
	__u32 unused;
};

/* Whether the current task belongs to a watched process; fills all but the goroutine. */
static __always_inline int watched(struct caller *caller)
{
	if (!watched_process(&caller->tgid, &caller->thread))
		return 0;
	__u32 zero = 0;
	__u64 *now = bpf_map_lookup_elem(&epoch, &zero);
	caller->epoch = now ? *now : 0;
	return 1;
}

static __always_inline void *reserve(__u64 size)
{
	void *record = bpf_ringbuf_reserve(&records, size, 0);
	if (!record) {
		__u32 zero = 0;
		__u64 *count = bpf_map_lookup_elem(&lost, &zero);
		if (count)
			*count += 1;
		__u64 *now = bpf_map_lookup_elem(&epoch, &zero);
		if (now)
			__sync_fetch_and_add(now, 1);
	}
	return record;
}

static __always_inline void fill_header(struct header *header, __u32 kind, const struct caller *caller)
{
	header->kind = kind;
	header->epoch = caller->epoch;
	header->at_ns = bpf_ktime_get_ns();
	header->goroutine = caller->goroutine;
	header->tgid = caller->tgid;
	header->thread = caller->thread;
}

static __always_inline struct goroutine *goroutine_of(const struct caller *caller)
{
	struct goroutine_key key = { .goroutine = caller->goroutine, .tgid = caller->tgid };
	struct goroutine *known = bpf_map_lookup_elem(&goroutines, &key);
	if (known && known->epoch == caller->epoch)
		return known;
	/* New, or last seen before a record was lost: forget, and say all of it again. */
	__u32 zero = 0;
	struct goroutine *empty = bpf_map_lookup_elem(&blank, &zero);
	if (!empty || bpf_map_update_elem(&goroutines, &key, empty, BPF_ANY))
		return 0;
	known = bpf_map_lookup_elem(&goroutines, &key);
	if (known)
		known->epoch = caller->epoch;
	return known;
}

#endif
