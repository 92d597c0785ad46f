/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ABI between telemetry.bpf.c and src/telemetry/bpf.rs, which has the same structures and
 * asserts the same sizes.
 */
#ifndef SCX_MOSIX_TELEMETRY_H
#define SCX_MOSIX_TELEMETRY_H

#define TASK_COMM_LEN 16

enum task_event_kind {
	TASK_FORKED = 1,
	TASK_EXECED = 2,
	TASK_EXITED = 3,
};

/* One process came, became another program, or went. */
struct task_event {
	__u32 kind;
	__u32 pid;		/* of the process (tgid) */
	__u32 ppid;
	__u32 uid;
	__s32 wait_status;	/* exit only: as wait(2) gives it */
	__u32 padding;
	__u64 start_ns;		/* CLOCK_BOOTTIME; with pid it names the process for ever */
	__u64 time_ns;		/* CLOCK_BOOTTIME, of the event */
	__u64 cgroup_id;
	__u64 run_ns;		/* CPU time of the process since it was forked; some ticks short while it has several threads */
	char comm[TASK_COMM_LEN];
};

/*
 * One thread, as the kernel counts it. A leader's counters include those of its threads that have
 * ended.
 */
struct task_sample {
	__u32 pid;
	__u32 tgid;
	__u32 ppid;
	__u32 uid;
	__u32 nr_threads;
	__u32 flags;		/* PF_* */
	__u32 state;		/* TASK_* of the thread */
	__u32 exit_state;
	__u64 start_ns;		/* CLOCK_BOOTTIME */
	__u64 run_ns;
	__u64 wait_ns;		/* runnable, waiting for a CPU */
	__u64 maj_flt;
	__u64 rss_pages;
	__u64 file_pages;	/* those of them that are of mapped files */
	__u64 io_bytes;		/* read from disks, and written to files, since it began */
	__u64 cgroup_id;
	char comm[TASK_COMM_LEN];
};

_Static_assert(sizeof(struct task_event) == 72, "ABI: task_event");
_Static_assert(sizeof(struct task_sample) == 112, "ABI: task_sample");

#endif /* SCX_MOSIX_TELEMETRY_H */
