/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Who is watched, and what a descriptor of theirs stands for. Every object has a list of its own.
 */
#ifndef MAGI_WATCH_H
#define MAGI_WATCH_H

#include "kernel.h"

#define MAX_TARGETS 4

struct targets {
	/* The pid namespace that numbers `pids`; inode 0: the initial one. */
	__u64 namespace_dev;
	__u64 namespace_ino;
	__u32 count;
	__u32 pids[MAX_TARGETS];
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct targets);
} targets SEC(".maps");

/* Whether the current task belongs to a watched process; numbers as the observer's pid namespace has them. */
static __always_inline int watched_process(__u32 *tgid, __u32 *thread)
{
	__u32 zero = 0;
	struct targets *wanted = bpf_map_lookup_elem(&targets, &zero);
	if (!wanted || wanted->count == 0)
		return 0;
	if (wanted->namespace_ino) {
		struct bpf_pidns_info ids = {};
		if (bpf_get_ns_current_pid_tgid(wanted->namespace_dev, wanted->namespace_ino, &ids,
						sizeof(ids)))
			return 0;
		*tgid = ids.tgid;
		*thread = ids.pid;
	} else {
		__u64 ids = bpf_get_current_pid_tgid();
		*tgid = ids >> 32;
		*thread = (__u32)ids;
	}
	if (*tgid == 0)
		return 0;
	return *tgid == wanted->pids[0] || *tgid == wanted->pids[1] || *tgid == wanted->pids[2] ||
	       *tgid == wanted->pids[3];
}

static __always_inline struct file *file_of(unsigned int descriptor)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	/* The table can be smaller than the number that user space passes. */
	if (!table || descriptor >= BPF_CORE_READ(table, max_fds))
		return 0;
	struct file **slot = BPF_CORE_READ(table, fd);
	struct file *file = 0;
	bpf_probe_read_kernel(&file, sizeof(file), &slot[descriptor]);
	return file;
}

#endif
