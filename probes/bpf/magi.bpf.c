// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Ties each TCP socket of a watched process to the content-store ingest that
 * it feeds, by goroutine. The first four programs cost other processes nothing
 * but an early return; the last two are the fallback for kernels without
 * sock_recv_length (before 6.3) and tax every system call of the machine.
 */
#include "follow.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

static __always_inline int watched_here(struct caller *caller)
{
	if (!watched(caller))
		return 0;
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	caller->goroutine = GOROUTINE(regs);
	return 1;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(magi_recv, struct sock *sk, int ret, int flags)
{
	struct caller caller = {};
	if (ret <= 0 || (flags & MSG_PEEK))
		return 0;
	if (!watched_here(&caller) || !is_tcp(sk))
		return 0;
	on_read(&caller, sk, bpf_get_socket_cookie(sk), ret);
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(magi_send, struct sock *sk, int ret, int flags)
{
	struct caller caller = {};
	if (ret <= 0 || !watched_here(&caller) || !is_tcp(sk))
		return 0;
	on_send(&caller, BPF_CORE_READ(sk, __sk_common.skc_cookie.counter));
	return 0;
}

#define LATER_OR_SAME(kernel_inode, a, b)                                                     \
	(BPF_CORE_READ(kernel_inode, a.tv_sec) > BPF_CORE_READ(kernel_inode, b.tv_sec) ||      \
	 (BPF_CORE_READ(kernel_inode, a.tv_sec) == BPF_CORE_READ(kernel_inode, b.tv_sec) &&     \
	  BPF_CORE_READ(kernel_inode, a.tv_nsec) >= BPF_CORE_READ(kernel_inode, b.tv_nsec)))

/* Changed at least as late as read: the times that a write leaves, and a read does not. */
static __always_inline int has_write_times(struct inode *inode)
{
	if (bpf_core_field_exists(inode->i_mtime_sec)) {
		__s64 changed = BPF_CORE_READ(inode, i_mtime_sec), read = BPF_CORE_READ(inode, i_atime_sec);
		return changed > read || (changed == read && BPF_CORE_READ(inode, i_mtime_nsec) >=
								     BPF_CORE_READ(inode, i_atime_nsec));
	}
	struct inode___spec *spec = (struct inode___spec *)inode;
	if (bpf_core_field_exists(spec->__i_mtime))
		return LATER_OR_SAME(spec, __i_mtime, __i_atime);
	struct inode___old *old = (struct inode___old *)inode;
	return LATER_OR_SAME(old, i_mtime, i_atime);
}

/*
 * Where every file that a writer changes is marked. Others, such as those in memory, skip the small files
 * that show when a writer is done. src/load.rs has the same list.
 */
static __always_inline int marks_every_write(struct inode *inode)
{
	unsigned long magic = BPF_CORE_READ(inode, i_sb, s_magic);
	return magic == 0xEF53 /* ext */ || magic == 0x58465342 /* xfs */ || magic == 0x9123683E /* btrfs */;
}

SEC("tp_btf/writeback_mark_inode_dirty")
int BPF_PROG(magi_dirty, struct inode *inode, int flags)
{
	struct caller caller = {};
	/*
	 * Reading a file may mark it too, for its time of access, as when somebody lists the ingests. The
	 * flags would tell on some file systems only, and their values differ between kernels; the times tell
	 * on all.
	 */
	if (watched_here(&caller) && marks_every_write(inode) && has_write_times(inode))
		on_touch(&caller, inode);
	return 0;
}

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(magi_state, struct sock *sk, int old_state, int new_state)
{
	struct caller caller = {};
	if (new_state == TCP_SYN_SENT) {
		/* The only transition that is sure to run in the process that connects. */
		if (!watched(&caller) || !is_tcp(sk))
			return 0;
		struct socket_entry fresh = { .owned = 1 };
		__u64 cookie = bpf_get_socket_cookie(sk);
		bpf_map_update_elem(&sockets, &cookie, &fresh, BPF_ANY);
		return 0;
	}
	if (new_state != TCP_ESTABLISHED && new_state != TCP_CLOSE)
		return 0;
	/* Read, not asked for: asking would allocate a cookie for every socket of the machine. */
	__u64 cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	struct socket_entry *socket = cookie ? bpf_map_lookup_elem(&sockets, &cookie) : 0;
	if (!socket)
		return 0;
	__u32 owned = socket->owned;
	if (new_state == TCP_CLOSE)
		bpf_map_delete_elem(&sockets, &cookie);

	__u32 zero = 0;
	__u64 *now = bpf_map_lookup_elem(&epoch, &zero);
	caller.epoch = now ? *now : 0;
	struct socket_state *record = reserve(sizeof(*record));
	if (!record)
		return 0;
	/* The current task may be anybody: no process, thread or goroutine here. */
	fill_header(&record->header, RECORD_SOCKET_STATE, &caller);
	record->cookie = cookie;
	fill_endpoints(&record->endpoints, sk);
	record->state = new_state;
	record->owned = owned;
	bpf_ringbuf_submit(record, 0);
	return 0;
}

/* A read that began on a TCP socket; counted when it returns a length. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} pending SEC(".maps");

SEC("raw_tracepoint/sys_enter")
int magi_sys_enter(struct bpf_raw_tracepoint_args *args)
{
	struct caller caller = {};
	unsigned long number = args->args[1];
	int is_read = number == NR_READ || number == NR_READV || number == NR_RECVFROM || number == NR_RECVMSG;
	int is_write = number == NR_WRITE || number == NR_PWRITE64 || number == NR_WRITEV;
	if (!is_read && !is_write && number != NR_CLOSE)
		return 0;
	if (!watched(&caller))
		return 0;
	struct pt_regs *regs = (struct pt_regs *)args->args[0];
	caller.goroutine = GOROUTINE(regs);
	struct file *file = file_of((unsigned int)FIRST_ARGUMENT(regs));
	if (!file)
		return 0;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	if (number == NR_CLOSE) {
		/* Chmod and rename at a commit are no writes: here only the close shows that a file is done. */
		struct goroutine_key key = { .goroutine = caller.goroutine, .tgid = caller.tgid };
		struct goroutine *goroutine = bpf_map_lookup_elem(&goroutines, &key);
		if (!goroutine || !goroutine->data.set)
			return 0;
		struct file_key closing = {
			.super_block = (__u64)BPF_CORE_READ(inode, i_sb),
			.inode = BPF_CORE_READ(inode, i_ino),
			.generation = BPF_CORE_READ(inode, i_generation),
			.set = 1,
		};
		if (same_file(&goroutine->data, &closing))
			say_left(&caller, goroutine);
		return 0;
	}
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFSOCK) {
		if (is_write)
			on_touch(&caller, inode);
		return 0;
	}
	struct socket *socket = (struct socket *)BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(socket, sk);
	if (!sk || !is_tcp(sk))
		return 0;
	if (is_write) {
		on_send(&caller, BPF_CORE_READ(sk, __sk_common.skc_cookie.counter));
		return 0;
	}
	__u64 thread = bpf_get_current_pid_tgid();
	bpf_map_update_elem(&pending, &thread, &sk, BPF_ANY);
	return 0;
}

SEC("raw_tracepoint/sys_exit")
int magi_sys_exit(struct bpf_raw_tracepoint_args *args)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct caller caller = {};
	if (!watched(&caller))
		return 0;
	__u64 *found = bpf_map_lookup_elem(&pending, &thread);
	if (!found)
		return 0;
	struct sock *sk = (struct sock *)*found;
	bpf_map_delete_elem(&pending, &thread);
	long result = args->args[1];
	/* An untyped socket cannot be given a cookie here; without one there is no key. */
	__u64 cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	if (result <= 0 || !cookie)
		return 0;
	struct pt_regs *regs = (struct pt_regs *)args->args[0];
	caller.goroutine = GOROUTINE(regs);
	on_read(&caller, sk, cookie, result);
	return 0;
}
