/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Telemetry: what tasks there are and what they use. Works with any scheduler, sched_ext or not.
 *
 * - sample_tasks, a task iterator: one pass over all threads inside the kernel, which hands out the
 *   counters that the kernel keeps anyhow: CPU time (se.sum_exec_runtime), time runnable but
 *   waiting (sched_info.run_delay), major page faults (task->maj_flt), pages in memory. Programs on
 *   sched_switch, sched_wakeup and page_fault_user would count the same by running at every one of
 *   millions of events, and could not even tell a major fault from a minor one: when
 *   page_fault_user fires the kernel does not yet know whether it must wait for a disk. So nothing
 *   is attached to hot paths, and the price of a sample is paid once per sample.
 *
 * - on_fork, on_exec, on_exit: one record per process in a ring buffer. What does not fit is
 *   counted in `lost_events`.
 *
 * The structures below name only the kernel fields that are read; where these are in the running
 * kernel is found from its BTF at load time (CO-RE).
 */
/*
 * The names that bpf_helpers.h expects of linux/types.h and linux/bpf.h, whose place differs
 * between distributions.
 */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

enum bpf_map_type {
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_RINGBUF = 27,
};

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "telemetry.h"

char _license[] SEC("license") = "GPL";

#define SIGNAL_GROUP_EXIT 0x4

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct percpu_counter {
	__s64 count;
};

struct mm_struct {
	struct percpu_counter rss_stat[4];	/* file, anonymous, swap entries, shared */
};

typedef struct {
	int counter;
} atomic_t;

struct task_io_accounting {
	__u64 read_bytes, write_bytes;
};

struct signal_struct {
	atomic_t live;
	int nr_threads;
	int group_exit_code;
	unsigned int flags;
	unsigned long maj_flt;
	unsigned long long sum_sched_runtime;
	struct task_io_accounting ioac;	/* of threads that have ended, and of children that were waited for */
};

typedef struct {
	unsigned int val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct sched_entity {
	__u64 sum_exec_runtime;
};

struct sched_info {
	unsigned long long run_delay;
};

struct task_struct {
	unsigned int __state;
	unsigned int flags;
	struct sched_entity se;
	struct sched_info sched_info;
	struct mm_struct *mm;
	int exit_state;
	int exit_code;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	__u64 start_boottime;
	unsigned long maj_flt;
	struct task_io_accounting ioac;
	const struct cred *real_cred;
	char comm[TASK_COMM_LEN];
	struct signal_struct *signal;
	struct css_set *cgroups;
};

struct seq_file {
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} task_events SEC(".maps");

/* Records for which the ring buffer had no room, since load. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost_events SEC(".maps");

static __always_inline void emit(struct task_struct *p, __u32 kind)
{
	struct task_event *event = bpf_ringbuf_reserve(&task_events, sizeof(*event), 0);
	struct task_struct *leader = p->group_leader;
	struct signal_struct *signal = p->signal;

	if (!event) {
		__u32 zero = 0;
		__u64 *lost = bpf_map_lookup_elem(&lost_events, &zero);

		if (lost)
			__sync_fetch_and_add(lost, 1);
		return;
	}
	event->kind = kind;
	event->pid = p->tgid;
	event->ppid = p->real_parent->tgid;
	event->uid = p->real_cred->uid.val;
	event->wait_status = 0;
	event->padding = 0;
	if (kind == TASK_EXITED)
		event->wait_status = signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : leader->exit_code;
	event->start_ns = leader->start_boottime;
	event->time_ns = bpf_ktime_get_boot_ns();
	event->cgroup_id = p->cgroups->dfl_cgrp->kn->id;
	/*
	 * Threads that have ended left theirs to the process; those that run beside these two are
	 * not asked.
	 */
	event->run_ns = signal->sum_sched_runtime + leader->se.sum_exec_runtime;
	if (p != leader)
		event->run_ns += p->se.sum_exec_runtime;
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), leader->comm);
	bpf_ringbuf_submit(event, 0);
}

SEC("tp_btf/sched_process_fork")
int on_fork(__u64 *ctx)
{
	struct task_struct *child = (struct task_struct *)ctx[1];

	if (child->pid == child->tgid)
		emit(child, TASK_FORKED);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int on_exec(__u64 *ctx)
{
	emit((struct task_struct *)ctx[0], TASK_EXECED);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];

	/*
	 * Only the last thread; when two end at the same moment both may find 0, and user space
	 * takes the first.
	 */
	if (p->signal->live.counter == 0)
		emit(p, TASK_EXITED);
	return 0;
}

SEC("iter/task")
int sample_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *p = ctx->task;
	struct task_sample sample = {};
	struct signal_struct *signal;
	struct mm_struct *mm;

	if (!p)
		return 0;
	signal = p->signal;
	sample.pid = p->pid;
	sample.tgid = p->tgid;
	sample.ppid = p->real_parent->tgid;
	sample.uid = p->real_cred->uid.val;
	sample.nr_threads = signal->nr_threads;
	sample.flags = p->flags;
	sample.state = p->__state;
	sample.exit_state = p->exit_state;
	sample.start_ns = p->start_boottime;
	sample.run_ns = p->se.sum_exec_runtime;
	sample.wait_ns = p->sched_info.run_delay;
	sample.maj_flt = p->maj_flt;
	/* Kernels without CONFIG_TASK_IO_ACCOUNTING do not count it. */
	if (bpf_core_field_exists(p->ioac.read_bytes))
		sample.io_bytes = p->ioac.read_bytes + p->ioac.write_bytes;
	if (p->pid == p->tgid) {
		sample.run_ns += signal->sum_sched_runtime;
		sample.maj_flt += signal->maj_flt;
		if (bpf_core_field_exists(signal->ioac.read_bytes))
			sample.io_bytes += signal->ioac.read_bytes + signal->ioac.write_bytes;
		mm = p->mm;
		if (mm) {
			/*
			 * The kernel's own quick figure: each counter may lag by a batch of pages
			 * per CPU, and be negative by it.
			 */
			__s64 pages = mm->rss_stat[0].count + mm->rss_stat[1].count + mm->rss_stat[3].count;

			sample.rss_pages = pages > 0 ? pages : 0;
			pages = mm->rss_stat[0].count;
			sample.file_pages = pages > 0 ? pages : 0;
		}
	}
	sample.cgroup_id = p->cgroups->dfl_cgrp->kn->id;
	bpf_probe_read_kernel_str(sample.comm, sizeof(sample.comm), p->comm);
	bpf_seq_write(ctx->meta->seq, &sample, sizeof(sample));
	return 0;
}
