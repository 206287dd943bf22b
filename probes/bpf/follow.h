/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What both variants of the probes do with an event: follow each goroutine's
 * latest ingest directory and latest socket, and speak only when that changes.
 */
#ifndef MAGI_FOLLOW_H
#define MAGI_FOLLOW_H

#include "maps.h"

#define FIRST_MARK (64 * 1024)
#define SOCKET_STEP (256 * 1024)
/* A slow socket is spoken of at least this often, if it delivers at all. */
#define SOCKET_PATIENCE_NS 5000000000ULL
#define VOTE_STEP (256 * 1024)
/* A thread hands over at once what it read, and not more than containerd's copy buffer. */
#define VOTE_PATIENCE_NS 250000ULL
#define VOTE_BUFFER (1024 * 1024)

static __always_inline void fill_endpoints(struct endpoints *ends, struct sock *sk)
{
	ends->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	ends->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	ends->remote_port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	ends->unused = 0;
	__builtin_memset(ends->local, 0, sizeof(ends->local));
	__builtin_memset(ends->remote, 0, sizeof(ends->remote));
	if (ends->family == AF_INET) {
		bpf_core_read(ends->local, 4, &sk->__sk_common.skc_rcv_saddr);
		bpf_core_read(ends->remote, 4, &sk->__sk_common.skc_daddr);
	} else if (bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		bpf_core_read(ends->local, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(ends->remote, 16, &sk->__sk_common.skc_v6_daddr);
	}
}

static __always_inline int is_tcp(struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	return (family == AF_INET || family == AF_INET6) && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP;
}

/* Bytes of `sk` reached user space through this goroutine and this thread. */
static __always_inline void on_read(const struct caller *caller, struct sock *sk, __u64 cookie, __u64 bytes)
{
	struct socket_entry *socket = bpf_map_lookup_elem(&sockets, &cookie);
	if (!socket) {
		struct socket_entry fresh = {};
		bpf_map_update_elem(&sockets, &cookie, &fresh, BPF_NOEXIST);
		socket = bpf_map_lookup_elem(&sockets, &cookie);
		if (!socket)
			return;
	}
	__sync_fetch_and_add(&socket->bytes, bytes);

	__u64 thread = bpf_get_current_pid_tgid();
	struct thread_entry *last = bpf_map_lookup_elem(&threads, &thread);
	if (last) {
		last->cookie = cookie;
		last->read_at_ns = bpf_ktime_get_ns();
		last->file = 0;
		last->credited = 0;
	} else {
		struct thread_entry fresh = { .cookie = cookie, .read_at_ns = bpf_ktime_get_ns() };
		bpf_map_update_elem(&threads, &thread, &fresh, BPF_ANY);
	}

	struct goroutine *goroutine = goroutine_of(caller);
	if (!goroutine)
		return;
	if (goroutine->cookie != cookie || socket->reader != caller->goroutine ||
	    socket->reader_tgid != caller->tgid) {
		if (goroutine->cookie != cookie)
			goroutine->confirm = 1;
		goroutine->cookie = cookie;
		goroutine->run = 0;
		goroutine->mark = 0;
		socket->reader = caller->goroutine;
		socket->reader_tgid = caller->tgid;
		socket->turn++;
	}
	goroutine->run += bytes;
	goroutine->read_in_directory += bytes;
	__u64 now = bpf_ktime_get_ns();
	if (goroutine->run < goroutine->mark && now - goroutine->said_at_ns < SOCKET_PATIENCE_NS)
		return;
	goroutine->said_at_ns = now;
	__u64 step = socket->bytes / 8;
	if (step < SOCKET_STEP)
		step = SOCKET_STEP;
	goroutine->mark = goroutine->run < FIRST_MARK ? FIRST_MARK : goroutine->run + step;

	struct socket_read *record = reserve(sizeof(*record));
	if (!record)
		return;
	fill_header(&record->header, RECORD_SOCKET_READ, caller);
	record->cookie = cookie;
	record->bytes_by_goroutine = goroutine->run;
	record->bytes_total = socket->bytes;
	fill_endpoints(&record->endpoints, sk);
	bpf_ringbuf_submit(record, 0);
}

/*
 * The watched process sends on a socket: over HTTP/1.1 the next request, so what was read before belongs to
 * another body. Worth saying only where a goroutine in an ingest reads it.
 */
static __always_inline void on_send(const struct caller *caller, __u64 cookie)
{
	struct socket_entry *socket = bpf_map_lookup_elem(&sockets, &cookie);
	if (!socket || !socket->reader)
		return;
	struct goroutine_key key = { .goroutine = socket->reader, .tgid = socket->reader_tgid };
	struct goroutine *reader = bpf_map_lookup_elem(&goroutines, &key);
	if (!reader || !reader->has_directory || reader->cookie != cookie)
		return;
	socket->reader = 0;
	socket->turn++;
	struct socket_sent *record = reserve(sizeof(*record));
	if (!record)
		return;
	fill_header(&record->header, RECORD_SOCKET_SENT, caller);
	record->cookie = cookie;
	bpf_ringbuf_submit(record, 0);
}

/* A file name's beginning, as one number: comparing it costs one instruction. */
static __always_inline __u32 part_of(const char *name)
{
	if (name[0] == 'd' && name[1] == 'a' && name[2] == 't' && name[3] == 'a' && name[4] == 0)
		return PART_DATA;
	if (name[0] == 'r' && name[1] == 'e' && name[2] == 'f')
		return PART_REF;
	if (name[0] == 's' && name[1] == 't' && name[2] == 'a')
		return PART_STARTED_AT;
	if (name[0] == 'u' && name[1] == 'p' && name[2] == 'd')
		return PART_UPDATED_AT;
	if (name[0] == 't' && name[1] == 'o' && name[2] == 't')
		return PART_TOTAL;
	return PART_OTHER;
}

static __always_inline int is_ingest(const char *name)
{
	return name[0] == 'i' && name[1] == 'n' && name[2] == 'g' && name[3] == 'e' && name[4] == 's' &&
	       name[5] == 't' && name[6] == 0;
}

static __always_inline int same_file(const struct file_key *a, const struct file_key *b)
{
	return a->set && b->set && a->inode == b->inode && a->super_block == b->super_block &&
	       a->generation == b->generation;
}

static __always_inline void say_touched(const struct caller *caller, const struct goroutine *goroutine,
					struct inode *inode, __u32 part)
{
	struct file_touched *record = reserve(sizeof(*record));
	if (!record)
		return;
	fill_header(&record->header, RECORD_FILE_TOUCHED, caller);
	record->inode = BPF_CORE_READ(inode, i_ino);
	record->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	record->part = part;
	__builtin_memcpy(record->directory, goroutine->directory, DIRECTORY_LENGTH);
	bpf_ringbuf_submit(record, 0);
}

/* The goroutine is done with the `data` file that it wrote. */
static __always_inline void say_left(const struct caller *caller, struct goroutine *goroutine)
{
	struct super_block *super_block = (struct super_block *)goroutine->data.super_block;
	__u64 inode = goroutine->data.inode;
	goroutine->data.set = 0;
	goroutine->has_directory = 0;
	struct file_left *record = reserve(sizeof(*record));
	if (!record)
		return;
	fill_header(&record->header, RECORD_FILE_LEFT, caller);
	record->inode = inode;
	record->dev = BPF_CORE_READ(super_block, s_dev);
	record->unused = 0;
	bpf_ringbuf_submit(record, 0);
}

/* The goroutine writes what it did not read: credit it to the socket that its thread read last. */
static __always_inline void vote_by_thread(const struct caller *caller, struct goroutine *goroutine,
					   struct inode *inode, const struct file_key *file)
{
	__s64 size = BPF_CORE_READ(inode, i_size);
	__s64 grown = size - goroutine->data_size;
	if (grown <= 0)
		return;
	goroutine->data_size = size;
	__u64 thread = bpf_get_current_pid_tgid();
	struct thread_entry *last = bpf_map_lookup_elem(&threads, &thread);
	if (!last)
		return;
	if (!last->file) {
		if (bpf_ktime_get_ns() - last->read_at_ns > VOTE_PATIENCE_NS)
			return;
		last->file = file->inode;
	}
	/* One hand-over is one buffer; what the thread writes after that was waiting in memory. */
	if (last->file != file->inode || last->credited >= VOTE_BUFFER)
		return;
	last->credited += grown;

	__u64 cookie = last->cookie;
	struct socket_entry *socket = bpf_map_lookup_elem(&sockets, &cookie);
	if (!socket)
		return;
	struct vote_key key = {
		.cookie = cookie,
		.turn = socket->turn,
		.super_block = file->super_block,
		.inode = file->inode,
	};
	struct vote *vote = bpf_map_lookup_elem(&votes, &key);
	if (!vote) {
		struct vote fresh = { .bytes = 0, .mark = VOTE_STEP };
		bpf_map_update_elem(&votes, &key, &fresh, BPF_NOEXIST);
		vote = bpf_map_lookup_elem(&votes, &key);
		if (!vote)
			return;
	}
	__sync_fetch_and_add(&vote->bytes, grown);
	__u64 sum = vote->bytes;
	if (sum < vote->mark)
		return;
	vote->mark = sum + (sum / 4 > VOTE_STEP ? sum / 4 : VOTE_STEP);

	struct thread_vote *record = reserve(sizeof(*record));
	if (!record)
		return;
	fill_header(&record->header, RECORD_THREAD_VOTE, caller);
	record->cookie = cookie;
	record->bytes = sum;
	record->inode = file->inode;
	record->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	record->unused = 0;
	__builtin_memcpy(record->directory, goroutine->directory, DIRECTORY_LENGTH);
	bpf_ringbuf_submit(record, 0);
}

static __always_inline struct dentry *first_alias(struct inode *inode)
{
	struct hlist_node *node = BPF_CORE_READ(inode, i_dentry.first);
	if (!node)
		return 0;
	__u64 offset;
	if (bpf_core_field_exists(struct dentry, d_u.d_alias))
		offset = bpf_core_field_offset(struct dentry, d_u.d_alias);
	else
		offset = bpf_core_field_offset(struct dentry___flat, d_alias);
	return (struct dentry *)((char *)node - offset);
}

/*
 * Whether the goroutine writes a file that was removed while it was open, as garbage collection does to an ingest that
 * lost its lease before its first byte came. Removing a file changes it too, but does not make it grow.
 */
static __always_inline int grows_nameless(struct goroutine *goroutine, struct inode *inode, const struct file_key *file)
{
	__s64 size = BPF_CORE_READ(inode, i_size);
	if (same_file(&goroutine->nameless, file) && size > goroutine->nameless_size)
		return 1;
	goroutine->nameless = *file;
	goroutine->nameless_size = size;
	return 0;
}

/* The watched process is changing `inode`. */
static __always_inline void on_touch(const struct caller *caller, struct inode *inode)
{
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return;
	/* A file being created has no name yet; its first write will have one. */
	struct dentry *entry = first_alias(inode);
	if (!entry)
		return;
	struct dentry *directory = BPF_CORE_READ(entry, d_parent);
	struct goroutine *goroutine = goroutine_of(caller);
	if (!directory || !goroutine)
		return;
	struct file_key file = {
		.super_block = (__u64)BPF_CORE_READ(inode, i_sb),
		.inode = BPF_CORE_READ(inode, i_ino),
		.generation = BPF_CORE_READ(inode, i_generation),
		.set = 1,
	};
	int is_own_data = same_file(&goroutine->data, &file);
	/* Bytes into a file without a name still count. */
	if (!is_own_data && BPF_CORE_READ(inode, i_nlink) == 0 && !grows_nameless(goroutine, inode, &file))
		return;
	if (same_file(&goroutine->seen, &file) && goroutine->seen_directory == (__u64)directory) {
		if (!goroutine->seen_is_data)
			return;
		if (goroutine->read_in_directory < FIRST_MARK) {
			vote_by_thread(caller, goroutine, inode, &file);
		} else if (goroutine->confirm) {
			goroutine->confirm = 0;
			say_touched(caller, goroutine, inode, PART_DATA);
		}
		return;
	}
	goroutine->seen = file;
	goroutine->seen_directory = (__u64)directory;
	goroutine->seen_is_data = 0;

	char name[8] = {};
	const unsigned char *text = BPF_CORE_READ(directory, d_parent, d_name.name);
	if (bpf_probe_read_kernel_str(name, sizeof(name), text) != sizeof("ingest") || !is_ingest(name)) {
		/*
		 * Between two writes of `data` a copy changes no other file. Afterwards it changes the blob's
		 * times or, where the file system keeps that to itself, the metadata database.
		 */
		if (goroutine->data.set)
			say_left(caller, goroutine);
		return;
	}

	char hash[DIRECTORY_LENGTH + 2] = {};
	text = BPF_CORE_READ(directory, d_name.name);
	if (bpf_probe_read_kernel_str(hash, sizeof(hash), text) != DIRECTORY_LENGTH + 1)
		return;
	text = BPF_CORE_READ(entry, d_name.name);
	__builtin_memset(name, 0, sizeof(name));
	bpf_probe_read_kernel_str(name, sizeof(name), text);
	__u32 part = part_of(name);
	int changed = !goroutine->has_directory || part == PART_REF;
	for (int i = 0; i < DIRECTORY_LENGTH; i++) {
		if (goroutine->directory[i] != hash[i])
			changed = 1;
	}
	if (changed) {
		__builtin_memcpy(goroutine->directory, hash, DIRECTORY_LENGTH);
		goroutine->has_directory = 1;
		goroutine->data.set = 0;
		goroutine->cookie = 0;
		goroutine->read_in_directory = 0;
	}
	/* `updatedat` follows `startedat` when an ingest is opened; else a writer gives up. */
	if (part == PART_UPDATED_AT && goroutine->part != PART_STARTED_AT)
		goroutine->has_directory = 0;
	goroutine->part = part;
	if (part == PART_DATA) {
		goroutine->data = file;
		goroutine->data_size = BPF_CORE_READ(inode, i_size);
		goroutine->seen_is_data = 1;
		goroutine->confirm = 0;
	}
	say_touched(caller, goroutine, inode, part);
}

#endif
