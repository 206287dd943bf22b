/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The few kernel structs that the probes read, and only the fields they read.
 *
 * Every struct is marked preserve_access_index, so the loader rewrites each
 * offset from the running kernel's BTF; the layout written here is never used.
 * A triple underscore starts a "flavour": another shape of the same struct.
 */
#ifndef MAGI_KERNEL_H
#define MAGI_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define MSG_PEEK 2
#define S_IFMT 00170000
#define S_IFSOCK 0140000
#define S_IFREG 0100000

#define KERNEL_STRUCT __attribute__((preserve_access_index))

typedef struct {
	__s64 counter;
} KERNEL_STRUCT atomic64_t;

struct hlist_node {
	struct hlist_node *next;
} KERNEL_STRUCT;

struct hlist_head {
	struct hlist_node *first;
} KERNEL_STRUCT;

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
} KERNEL_STRUCT;

struct qstr {
	const unsigned char *name;
} KERNEL_STRUCT;

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	union {
		struct hlist_node d_alias;
	} d_u;
} KERNEL_STRUCT;

/* Kernels that keep the alias node in an anonymous union. */
struct dentry___flat {
	struct hlist_node d_alias;
} KERNEL_STRUCT;

struct inode {
	__u16 i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_generation;
	unsigned int i_nlink;
	__s64 i_size;
	struct hlist_head i_dentry;
	__s64 i_atime_sec;
	__s64 i_mtime_sec;
	__u32 i_atime_nsec;
	__u32 i_mtime_nsec;
} KERNEL_STRUCT;

struct timespec64 {
	__s64 tv_sec;
	long tv_nsec;
} KERNEL_STRUCT;

/* Linux 6.7 to 6.10. */
struct inode___spec {
	struct timespec64 __i_atime;
	struct timespec64 __i_mtime;
} KERNEL_STRUCT;

/* Linux up to 6.6. */
struct inode___old {
	struct timespec64 i_atime;
	struct timespec64 i_mtime;
} KERNEL_STRUCT;

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
} KERNEL_STRUCT;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	__u16 skc_family;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
} KERNEL_STRUCT;

struct file {
	struct inode *f_inode;
	void *private_data;
} KERNEL_STRUCT;

struct socket {
	struct file *file;
	struct sock *sk;
} KERNEL_STRUCT;

struct ns_common {
	unsigned int inum;
} KERNEL_STRUCT;

struct pid_namespace {
	struct ns_common ns;
} KERNEL_STRUCT;

/* An array of these is indexed by size, so this layout is used: it has been so since Linux 4.14. */
struct upid {
	int nr;
	struct pid_namespace *ns;
} KERNEL_STRUCT;

struct pid {
	unsigned int level;
	struct upid numbers[1];
} KERNEL_STRUCT;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	__u16 sk_type;
	struct socket *sk_socket;
	struct pid *sk_peer_pid;
} KERNEL_STRUCT;

#define SUN_PATH_LENGTH 108

struct sockaddr_un {
	char sun_path[SUN_PATH_LENGTH];
} KERNEL_STRUCT;

struct unix_address {
	int len;
	struct sockaddr_un name[1];
} KERNEL_STRUCT;

struct unix_sock {
	struct unix_address *addr;
} KERNEL_STRUCT;

/* From here to the task: read by the system call fallbacks only. */
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} KERNEL_STRUCT;

struct files_struct {
	struct fdtable *fdt;
} KERNEL_STRUCT;

struct task_struct {
	struct files_struct *files;
} KERNEL_STRUCT;

/*
 * Go keeps the pointer of the running goroutine in a fixed register: R14 on
 * amd64, R28 on arm64. A system call saves it with the other user registers.
 */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r14;
	unsigned long r10;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
} KERNEL_STRUCT;
#define GOROUTINE(regs) BPF_CORE_READ(regs, r14)
#define SYSTEM_CALL(regs) BPF_CORE_READ(regs, orig_ax)
#define FIRST_ARGUMENT(regs) BPF_CORE_READ(regs, di)
#define SECOND_ARGUMENT(regs) BPF_CORE_READ(regs, si)
#define THIRD_ARGUMENT(regs) BPF_CORE_READ(regs, dx)
#define FOURTH_ARGUMENT(regs) BPF_CORE_READ(regs, r10)
#define NR_READ 0
#define NR_READV 19
#define NR_RECVFROM 45
#define NR_RECVMSG 47
#define NR_SENDTO 44
#define NR_SENDMSG 46
#define NR_WRITE 1
#define NR_PWRITE64 18
#define NR_WRITEV 20
#define NR_CLOSE 3
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	__u64 regs[31];
	__u64 orig_x0;
	__s32 syscallno;
} KERNEL_STRUCT;
#define GOROUTINE(regs) BPF_CORE_READ(regs, regs[28])
#define SYSTEM_CALL(regs) BPF_CORE_READ(regs, syscallno)
/* x0 is about to be overwritten by the result; orig_x0 keeps the argument. */
#define FIRST_ARGUMENT(regs) BPF_CORE_READ(regs, orig_x0)
#define SECOND_ARGUMENT(regs) BPF_CORE_READ(regs, regs[1])
#define THIRD_ARGUMENT(regs) BPF_CORE_READ(regs, regs[2])
#define FOURTH_ARGUMENT(regs) BPF_CORE_READ(regs, regs[3])
#define NR_READ 63
#define NR_READV 65
#define NR_RECVFROM 207
#define NR_RECVMSG 212
#define NR_SENDTO 206
#define NR_SENDMSG 211
#define NR_WRITE 64
#define NR_PWRITE64 68
#define NR_WRITEV 66
#define NR_CLOSE 57
#else
#error "the register that holds the goroutine is known for amd64 and arm64 only"
#endif

#endif
