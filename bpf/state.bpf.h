/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the scheduler remembers: of each task, CPU and last-level cache ("LLC"). Data and look-ups
 * only, no policy.
 */
#ifndef SCX_MOSIX_STATE_BPF_H
#define SCX_MOSIX_STATE_BPF_H

#include <scx/common.bpf.h>
#include "intf.h"

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define NSEC_PER_MSEC	1000000ULL
#define NSEC_PER_SEC	1000000000ULL

/* Set by the loader before load, constant afterwards. */
const volatile u32 nr_llcs = 1;
const volatile u32 nr_cpus = 1;
const volatile u16 cpu_llc[MOSIX_MAX_CPUS];
const volatile u32 llc_nr_cpus[MOSIX_MAX_LLCS];

/*
 * Written by user space after it changed a hint: tasks look their hints up again when it differs
 * from what they remember.
 */
volatile u64 hint_generation;
/* Written by user space: how many processes are throttled, and how many cgroups have a tier. */
volatile u32 nr_throttled;
volatile u32 nr_cgroup_hints;

/* One tier's fluid clock in one LLC; see clock.bpf.h. */
struct tier_clock {
	u64 vnow;	/* virtual time */
	u64 weight;	/* sum of the weights of its runnable tasks */
	u64 aging_full;	/* of those of them whose age counts: sum of the full weights, */
	u64 aging_left;	/* and of what age leaves of them; see attained.bpf.h */
};

struct llc_ctx {
	struct tier_clock clocks[MOSIX_NR_TIERS];
	/*
	 * CPUs of this LLC that run a task of the tier just now: tells whether looking for one to
	 * preempt can succeed.
	 */
	u32 nr_running[MOSIX_NR_TIERS];
} __attribute__((aligned(128)));

struct llc_ctx llcs[MOSIX_MAX_LLCS];

struct cpu_ctx {
	struct mosix_cpu_stats stats;	/* first: user space reads it from the beginning of the value */
	s64 owed_ns[MOSIX_NR_TIERS];	/* CPU time that a lower tier is owed here; see tiers.bpf.h */
	u64 running_key;		/* virtual deadline of the running task, as of when it was charged last */
	u64 running_since;
	u32 running_tier;		/* MOSIX_TIER_NONE: idle */
	u32 running_llc;
	bool running_owed;		/* it runs because its tier was owed: not to be preempted by a better one */
	bool next_owed;			/* the task just dispatched does */
};
_Static_assert(__builtin_offsetof(struct cpu_ctx, stats) == 0, "ABI: the statistics come first");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu_ctx);
} cpu_ctxs SEC(".maps");

struct task_ctx {
	/* Place in the queues. */
	u64 vruntime;
	u64 key;		/* vruntime plus what it asks for: its virtual deadline */
	u64 burst_ns;		/* average run between two sleeps */
	u64 ran_since_wake_ns;
	u32 llc;		/* whose clock vruntime belongs to */
	u32 tier;		/* and which */
	u32 full_weight;	/* share of the whole machine, in WEIGHT_ONE */
	u32 weight;		/* by which it is served, its age counted; 0: not runnable */
	u32 aging_full;		/* what is booked for it with the clock's sums of the same names */
	u32 aging_left;
	u32 task_weight;	/* nice value's weight as counted in its cgroup; 0: not runnable */
	bool yielded;

	/* Hints, as of .hint_generation and .hint_cgroup. */
	u64 hint_generation;
	u64 hint_cgroup;
	u32 speed_permille;
	bool by_attained;	/* its weight falls with the CPU time of its process */

	/* Of a process's first thread: the process's age; see attained.bpf.h. */
	s64 attained_ns;	/* CPU time of all threads, less a part of the time slept */
	u64 active_at;		/* when one of them ran or woke last */

	/* Accounts. */
	u64 runnable_since;
	u64 charged_until;
	u64 paused_until;	/* throttled: not before this */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} task_ctxs SEC(".maps");

static __always_inline struct task_ctx *task_ctx_of(struct task_struct *p)
{
	return bpf_task_storage_get(&task_ctxs, p, 0, 0);
}

static __always_inline struct cpu_ctx *cpu_ctx_of(s32 cpu)
{
	u32 zero = 0;

	return bpf_map_lookup_percpu_elem(&cpu_ctxs, &zero, cpu);
}

static __always_inline struct cpu_ctx *this_cpu_ctx(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&cpu_ctxs, &zero);
}

static __always_inline u32 llc_of_cpu(s32 cpu)
{
	const volatile u16 *llc = MEMBER_VPTR(cpu_llc, [(u32)cpu]);

	return llc ? *llc : 0;
}

/*
 * These four never return NULL for a valid LLC and tier; MEMBER_VPTR is what proves the bounds to
 * the verifier.
 */
static __always_inline struct tier_clock *clock_of(u32 llc, u32 tier)
{
	return tier < MOSIX_NR_TIERS ? MEMBER_VPTR(llcs, [llc].clocks[tier]) : NULL;
}

static __always_inline u32 *nr_running_of(u32 llc, u32 tier)
{
	return tier < MOSIX_NR_TIERS ? MEMBER_VPTR(llcs, [llc].nr_running[tier]) : NULL;
}

static __always_inline s64 *owed_of(struct cpu_ctx *cctx, u32 tier)
{
	return tier < MOSIX_NR_TIERS ? MEMBER_VPTR(*cctx, .owed_ns[tier]) : NULL;
}

static __always_inline struct mosix_tier_stats *stats_of(struct cpu_ctx *cctx, u32 tier)
{
	return tier < MOSIX_NR_TIERS ? MEMBER_VPTR(*cctx, .stats.tiers[tier]) : NULL;
}

static __always_inline u32 cpus_of_llc(u32 llc)
{
	const volatile u32 *n = MEMBER_VPTR(llc_nr_cpus, [llc]);

	return n && *n ? *n : 1;
}

/* Tasks with migration disabled never come here: the kernel keeps them on their CPU by itself. */
static __always_inline bool is_pinned(const struct task_struct *p)
{
	return p->nr_cpus_allowed == 1;
}

/* Notes what the CPU runs now (MOSIX_TIER_NONE: nothing of ours), for it and for its LLC. */
static __always_inline void set_running(struct cpu_ctx *cctx, u32 llc, u32 tier)
{
	u32 *count = nr_running_of(cctx->running_llc, cctx->running_tier);

	if (count)
		__sync_fetch_and_sub(count, 1);
	cctx->running_llc = llc;
	cctx->running_tier = tier;
	count = nr_running_of(llc, tier);
	if (count)
		__sync_fetch_and_add(count, 1);
}

/* Adds to this CPU's own counter: no other CPU writes it, so that no atomic is needed. */
#define COUNT(cctx, field) ((cctx)->stats.field++)

#endif
