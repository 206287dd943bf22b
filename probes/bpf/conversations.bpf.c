// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Copies what passes on the connections that watched processes accepted on given unix sockets. The bytes are
 * taken from the buffer of the system call that moved them, so nothing is asked of client or server.
 *
 * The first two programs cost other processes nothing but an early return; the last is the fallback for kernels
 * without sock_recv_length (before 6.3) and taxes every system call of the machine.
 */
#include "piece.h"
#include "watch.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define SOCK_STREAM 1
#define MSG_WAITALL 0x100
#define MSG_DONTWAIT 0x40
#define MSG_NOSIGNAL 0x4000
/* With other flags the bytes that moved are not simply those in the buffer. */
#define PLAIN_FLAGS (MSG_WAITALL | MSG_DONTWAIT | MSG_NOSIGNAL)
#define EPIPE 32
#define ECONNRESET 104

/* Sizes of a piece. The unused rest of a record costs room in the ring, a call's last bytes fit the closest. */
#define SMALL 256
#define MIDDLE 2048
#define LARGE 16384
#define PIECES 4

/* src/conversations/kernel_side.rs has the same bounds. */
#define MAX_PATHS 4
#define MAX_CONVERSATIONS 1024

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024);
} pieces SEC(".maps");

/* The listeners' paths, padded with zeroes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PATHS);
	__type(key, char[SUN_PATH_LENGTH]);
	__type(value, __u32);
} paths SEC(".maps");

/* The process whose connections are left out, by its number in its own pid namespace. */
struct self {
	__u64 tgid;
	__u64 namespace_ino;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct self);
} self SEC(".maps");

enum state {
	OPEN = 1,
	/* Its end was said. */
	ENDED = 2,
	/* Its client is left out. */
	OWN = 3,
};

struct conversation {
	/* Bytes that passed since it was first seen. */
	__u64 to_server;
	__u64 from_server;
	__u64 inode;
	__u32 tgid;
	__u32 state;
};

/* Never evicts by itself, as counts would begin again unseen: user space removes what is gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CONVERSATIONS);
	__type(key, __u64);
	__type(value, struct conversation);
} conversations SEC(".maps");

enum loss {
	/* Bytes that did not fit the ring. */
	RING_FULL = 0,
	/* Bytes moved by a call that is not understood, beyond what is copied of one call, or unreadable. */
	NOT_COPIED = 1,
	/* Calls on connections for which there was no room in the table. */
	NO_ROOM = 2,
	LOSSES = 3,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOSSES);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

static __always_inline void count(__u32 loss, __u64 amount)
{
	__u64 *sum = bpf_map_lookup_elem(&losses, &loss);
	if (sum)
		*sum += amount;
}

/* One call of a watched process that may have moved bytes. */
struct call {
	__u64 connection;
	__u64 result;
	/* Where the bytes are, or 0 if that is not known. */
	__u64 buffer;
	__u32 tgid;
	__u32 direction;
};

/* Whether the socket was accepted on one of the paths: it carries its listener's address. */
static __always_inline int is_asked_for(struct sock *sk)
{
	struct unix_address *address = BPF_CORE_READ((struct unix_sock *)sk, addr);
	if (!address)
		return 0;
	/* The length counts the family before the path. */
	__u64 length = (__u32)BPF_CORE_READ(address, len) - sizeof(__u16);
	if (length > SUN_PATH_LENGTH)
		return 0;
	char path[SUN_PATH_LENGTH] = {};
	const char *name = (const char *)address + bpf_core_field_offset(struct unix_address, name) +
			   bpf_core_field_offset(struct sockaddr_un, sun_path);
	if (bpf_probe_read_kernel(path, length, name))
		return 0;
	return bpf_map_lookup_elem(&paths, path) != 0;
}

/* Whether the process that connected is the one to be left out. */
static __always_inline int is_own(struct sock *sk)
{
	__u32 zero = 0;
	struct self *own = bpf_map_lookup_elem(&self, &zero);
	struct pid *peer = BPF_CORE_READ(sk, sk_peer_pid);
	if (!own || !own->tgid || !peer)
		return 0;
	/* The last number of a process is the one in its own namespace. */
	__u64 level = BPF_CORE_READ(peer, level);
	struct upid *last = (struct upid *)((char *)peer + bpf_core_field_offset(struct pid, numbers) +
					    level * sizeof(struct upid));
	return (__u32)BPF_CORE_READ(last, nr) == own->tgid && BPF_CORE_READ(last, ns, ns.inum) == own->namespace_ino;
}

static __always_inline int is_stream(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_family) == AF_UNIX && BPF_CORE_READ(sk, sk_type) == SOCK_STREAM;
}

static __always_inline struct conversation *conversation_of(const struct call *call, struct sock *sk)
{
	__u64 id = call->connection;
	struct conversation *known = bpf_map_lookup_elem(&conversations, &id);
	if (!known) {
		if (!is_asked_for(sk))
			return 0;
		struct conversation fresh = {
			.inode = BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino),
			.tgid = call->tgid,
			.state = is_own(sk) ? OWN : OPEN,
		};
		bpf_map_update_elem(&conversations, &id, &fresh, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&conversations, &id);
		if (!known) {
			count(NO_ROOM, 1);
			return 0;
		}
	}
	return known->state == OPEN ? known : 0;
}

static __always_inline void fill_piece(struct piece *piece, const struct call *call, __u64 offset, __u64 at_ns,
				       __u32 length)
{
	piece->kind = length ? KIND_PIECE : KIND_CLOSED;
	piece->direction = call->direction;
	piece->connection = call->connection;
	piece->offset = offset;
	piece->at_ns = at_ns;
	piece->length = length;
	piece->tgid = call->tgid;
}

/* `room` is a constant wherever this is expanded, as the ring demands. */
static __always_inline void copy(__u64 room, const struct call *call, __u64 done, __u64 length, __u64 offset,
				 __u64 at_ns)
{
	struct piece *piece = bpf_ringbuf_reserve(&pieces, sizeof(*piece) + room, 0);
	if (!piece) {
		count(RING_FULL, length);
		return;
	}
	fill_piece(piece, call, offset + done, at_ns, length);
	if (bpf_probe_read_user(piece + 1, length, (void *)(call->buffer + done))) {
		bpf_ringbuf_discard(piece, 0);
		count(NOT_COPIED, length);
		return;
	}
	bpf_ringbuf_submit(piece, 0);
}

/* Bytes passed: count them whatever happens, and copy what can be copied. */
static __always_inline void on_bytes(const struct call *call, struct sock *sk)
{
	struct conversation *conversation = conversation_of(call, sk);
	if (!conversation)
		return;
	__u64 *passed = call->direction == TO_SERVER ? &conversation->to_server : &conversation->from_server;
	__u64 offset = *passed, length = call->result, at_ns = bpf_ktime_get_ns(), done = 0;
	__sync_fetch_and_add(passed, length);
	if (!call->buffer) {
		count(NOT_COPIED, length);
		return;
	}
	for (int i = 0; i < PIECES && done < length; i++) {
		__u64 left = length - done;
		/* The comparisons below bound the very value that is used as a size. */
		barrier_var(left);
		if (left <= SMALL) {
			copy(SMALL, call, done, left, offset, at_ns);
		} else if (left <= MIDDLE) {
			copy(MIDDLE, call, done, left, offset, at_ns);
		} else {
			if (left > LARGE)
				left = LARGE;
			copy(LARGE, call, done, left, offset, at_ns);
		}
		done += left;
	}
	if (done < length)
		count(NOT_COPIED, length - done);
}

/* The client is gone. */
static __always_inline void on_end(const struct call *call, struct sock *sk)
{
	struct conversation *conversation = conversation_of(call, sk);
	if (!conversation)
		return;
	struct piece *piece = bpf_ringbuf_reserve(&pieces, sizeof(*piece), 0);
	/* If this cannot be said, it stays open until it is not in the kernel's list any more. */
	if (!piece)
		return;
	conversation->state = ENDED;
	fill_piece(piece, call, 0, bpf_ktime_get_ns(), 0);
	bpf_ringbuf_submit(piece, 0);
}

static __always_inline int is_end(long result, __u64 wanted)
{
	/* A read of no bytes gives none, and means nothing. */
	return result == -EPIPE || result == -ECONNRESET || (result == 0 && wanted > 0);
}

static __always_inline void on_call(struct call *call, struct sock *sk, long result, __u64 wanted)
{
	if (result > 0) {
		call->result = result;
		if (call->result > wanted)
			call->buffer = 0;
		on_bytes(call, sk);
	} else if (is_end(result, wanted)) {
		on_end(call, sk);
	}
}

static __always_inline int at_tracepoint(__u32 direction, struct sock *sk, long result)
{
	struct call call = { .direction = direction };
	__u32 thread;
	if (result < 0 && result != -EPIPE && result != -ECONNRESET)
		return 0;
	if (!watched_process(&call.tgid, &thread) || !is_stream(sk))
		return 0;
	call.connection = bpf_get_socket_cookie(sk);
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	unsigned long number = SYSTEM_CALL(regs);
	unsigned long simple = direction == TO_SERVER ? NR_READ : NR_WRITE;
	unsigned long flagged = direction == TO_SERVER ? NR_RECVFROM : NR_SENDTO;
	/* What a call of several buffers wanted is not known; that it wanted something is sure enough. */
	__u64 wanted = 1;
	if (number == simple || (number == flagged && !(FOURTH_ARGUMENT(regs) & ~PLAIN_FLAGS))) {
		call.buffer = SECOND_ARGUMENT(regs);
		wanted = THIRD_ARGUMENT(regs);
	}
	on_call(&call, sk, result, wanted);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(magi_heard, struct sock *sk, int ret, int flags)
{
	if (flags & MSG_PEEK)
		return 0;
	return at_tracepoint(TO_SERVER, sk, ret);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(magi_answered, struct sock *sk, int ret, int flags)
{
	/* Sending nothing is no end. */
	if (ret == 0)
		return 0;
	return at_tracepoint(FROM_SERVER, sk, ret);
}

SEC("raw_tracepoint/sys_exit")
int magi_talked(struct bpf_raw_tracepoint_args *args)
{
	struct call call = {};
	__u32 thread;
	long result = args->args[1];
	if (result < 0 && result != -EPIPE && result != -ECONNRESET)
		return 0;
	if (!watched_process(&call.tgid, &thread))
		return 0;
	struct pt_regs *regs = (struct pt_regs *)args->args[0];
	unsigned long number = SYSTEM_CALL(regs);
	__u64 flags = 0, wanted = 1;
	int is_copied = 0;
	if (number == NR_READ || number == NR_WRITE) {
		is_copied = 1;
	} else if (number == NR_RECVFROM || number == NR_SENDTO) {
		flags = FOURTH_ARGUMENT(regs);
		is_copied = !(flags & ~PLAIN_FLAGS);
	} else if (number == NR_RECVMSG || number == NR_SENDMSG) {
		flags = THIRD_ARGUMENT(regs);
	} else if (number != NR_READV && number != NR_WRITEV) {
		return 0;
	}
	int is_read = number == NR_READ || number == NR_RECVFROM || number == NR_RECVMSG || number == NR_READV;
	call.direction = is_read ? TO_SERVER : FROM_SERVER;
	if ((flags & MSG_PEEK) || (!is_read && result == 0))
		return 0;
	struct file *file = file_of((unsigned int)FIRST_ARGUMENT(regs));
	if (!file)
		return 0;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	struct socket *socket = (struct socket *)BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(socket, sk);
	if (!sk || !is_stream(sk))
		return 0;
	/* An untyped socket cannot be given a cookie here. */
	call.connection = BPF_CORE_READ(inode, i_ino);
	if (is_copied) {
		call.buffer = SECOND_ARGUMENT(regs);
		wanted = THIRD_ARGUMENT(regs);
	}
	on_call(&call, sk, result, wanted);
	return 0;
}
