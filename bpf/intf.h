/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ABI between the scheduler's BPF half and src/scheduler/: plain data, nothing else. Both
 * halves assert the sizes (below, and in src/scheduler/abi.rs), so that a change on one side alone
 * does not compile.
 */
#ifndef SCX_MOSIX_INTF_H
#define SCX_MOSIX_INTF_H

#ifndef __VMLINUX_H__
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
#endif

enum mosix_limits {
	/* Highest CPU number served, plus one; the loader refuses larger machines. */
	MOSIX_MAX_CPUS	= 1024,
	/* Highest number of last-level caches; those beyond share the last queue. */
	MOSIX_MAX_LLCS	= 128,
	/* Tiers, best first; see enum mosix_tier. */
	MOSIX_NR_TIERS	= 3,
	/* Speed of a process that is not throttled, in thousandths. */
	MOSIX_FULL_SPEED_PERMILLE = 1000,
};

/* Who is served first. A smaller number comes first. */
enum mosix_tier {
	MOSIX_TIER_AGENT = 0,
	MOSIX_TIER_HOME	 = 1,
	MOSIX_TIER_GUEST = 2,
	/*
	 * In a hint: "no opinion, ask the cgroup". As a CPU's running tier: idle, or another
	 * scheduling class.
	 */
	MOSIX_TIER_NONE	 = 3,
};

/* Whose weight falls with the CPU time that they have had. */
enum mosix_attained_service {
	MOSIX_ATTAINED_OFF  = 0,
	MOSIX_ATTAINED_JOBS = 1,	/* processes in the cgroups of jobs */
	MOSIX_ATTAINED_ALL  = 2,
};

/* What user space says of one process; key: its tgid. */
struct mosix_process_hint {
	u32 tier;		/* enum mosix_tier */
	u32 speed_permille;	/* 1..1000: the share of a CPU's time that each of its threads may use */
};

/* What user space says of one cgroup and all below; key: the inode number of its directory. */
struct mosix_cgroup_hint {
	u32 tier;		/* enum mosix_tier */
	u32 is_job;		/* whether it is that of a job; bool */
};

/* One per CPU and tier. */
struct mosix_tier_stats {
	u64 run_ns;		/* on a CPU */
	u64 wait_ns;		/* runnable, but waiting for a CPU */
	u64 switches;		/* times put on a CPU */
};

/* One per CPU: where tasks went. */
struct mosix_cpu_stats {
	struct mosix_tier_stats tiers[MOSIX_NR_TIERS];
	u64 nr_direct;		/* put straight on an idle CPU */
	u64 nr_queued;		/* put into a shared or a per-CPU queue */
	u64 nr_stolen;		/* taken from another cache's queue */
	u64 nr_preempted;	/* running tasks asked to make room */
	u64 nr_owed;		/* turns that a lower tier got because it was owed them */
	u64 nr_paused;		/* turns put off because the process is throttled */
};

_Static_assert(sizeof(struct mosix_process_hint) == 8, "ABI: mosix_process_hint");
_Static_assert(sizeof(struct mosix_cgroup_hint) == 8, "ABI: mosix_cgroup_hint");
_Static_assert(sizeof(struct mosix_tier_stats) == 24, "ABI: mosix_tier_stats");
_Static_assert(sizeof(struct mosix_cpu_stats) == 120, "ABI: mosix_cpu_stats");

#endif /* SCX_MOSIX_INTF_H */
