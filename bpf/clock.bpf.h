/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Weighted virtual time.
 *
 * Each tier of each LLC has a fluid clock V: it advances by the CPU time that the tier's tasks get
 * there, divided by the sum W of the weights of its runnable tasks. A task's vruntime v advances by
 * its own CPU time divided by its own weight w. A task that gets exactly its share keeps v = V; v <
 * V means that it is behind. Because V advances with every bit of service, by whomever it is used,
 * no crowd of sleepers can stand still in front of a waiting task.
 *
 *	key = v + burst / w, the virtual deadline by which the task is queued: it asks for what it
 *	used lately between two sleeps, so that of two tasks that are equally far behind, the one
 *	with the shorter bursts goes first.
 *
 * Bounds, all expressed as the way V goes in a stretch of real time under the present load, so that
 * they hold at any weight:
 *
 *	v >= V - way(SLEEP_CREDIT)	who wakes keeps the share of its last 20 ms, not more
 *	v >= V - way(MAX_WAIT)		who had to wait keeps what it is behind, within reason
 *	v <= V + way(MAX_AHEAD)		who ran alone on a CPU meanwhile does not pay for it for
 *					ever (but at least for one slice)
 *	key <= V + way(MAX_WAIT)	no task, however light, waits much longer than 3 s for its
 *					turn within the tier
 *
 * The last one is what keeps the kernel's watchdog (30 s) quiet: who comes is queued behind V -
 * way(MAX_WAIT), V passes every queued key in bounded time, and from then on no task overtakes.
 */
#ifndef SCX_MOSIX_CLOCK_BPF_H
#define SCX_MOSIX_CLOCK_BPF_H

#include "state.bpf.h"

/* The weight of the whole machine. */
#define WEIGHT_ONE		(1ULL << 20)

#define SLICE_MAX_NS		(5 * NSEC_PER_MSEC)
#define SLICE_MIN_NS		(1 * NSEC_PER_MSEC)
#define SLEEP_CREDIT_NS		(20 * NSEC_PER_MSEC)
#define MAX_AHEAD_NS		(100 * NSEC_PER_MSEC)
#define MAX_WAIT_NS		(3 * NSEC_PER_SEC)
/* A woken task does not preempt one of its own tier that has run for less than this. */
#define WAKEUP_GRANULARITY_NS	(NSEC_PER_MSEC / 2)

/* Service of `ns` in the virtual time of a task, or of all tasks, of weight `weight`. */
static __always_inline u64 virtual_of(u64 ns, u64 weight)
{
	/*
	 * 2^43 ns are over two hours, more than one charge ever covers; with 2^20 they stay below
	 * 2^63.
	 */
	return MIN(ns, 1ULL << 43) * WEIGHT_ONE / MAX(weight, 1);
}

/* How far the clock goes in `ns` of real time with all CPUs of its LLC at work. */
static __always_inline u64 clock_way(const struct tier_clock *clock, u32 llc, u64 ns)
{
	return virtual_of(ns * cpus_of_llc(llc), clock->weight);
}

/*
 * Books what a runnable task whose age counts weighs in full, and what age leaves of that; 0 and 0:
 * nothing any more.
 */
static __always_inline void clock_book_aging(struct task_ctx *tctx, u32 full, u32 left)
{
	struct tier_clock *clock = clock_of(tctx->llc, tctx->tier);

	if (!clock || (full == tctx->aging_full && left == tctx->aging_left))
		return;
	__sync_fetch_and_add(&clock->aging_full, (u64)full - (u64)tctx->aging_full);
	__sync_fetch_and_add(&clock->aging_left, (u64)left - (u64)tctx->aging_left);
	tctx->aging_full = full;
	tctx->aging_left = left;
}

/*
 * Puts the task under another clock; its distance to the clock stays what it was, and so do the
 * sums of the weights.
 */
static __always_inline void clock_move(struct task_ctx *tctx, u32 llc, u32 tier)
{
	struct tier_clock *from = clock_of(tctx->llc, tctx->tier);
	struct tier_clock *to = clock_of(llc, tier);

	if (from == to || !from || !to)
		return;
	if (tctx->weight) {
		__sync_fetch_and_sub(&from->weight, tctx->weight);
		__sync_fetch_and_add(&to->weight, tctx->weight);
	}
	if (tctx->aging_full) {
		__sync_fetch_and_sub(&from->aging_full, tctx->aging_full);
		__sync_fetch_and_sub(&from->aging_left, tctx->aging_left);
		__sync_fetch_and_add(&to->aging_full, tctx->aging_full);
		__sync_fetch_and_add(&to->aging_left, tctx->aging_left);
	}
	tctx->vruntime += to->vnow - from->vnow;
	tctx->llc = llc;
	tctx->tier = tier;
}

/* Makes `weight` (0: not runnable any more) the task's weight, in itself and in its clock's sum. */
static __always_inline void clock_set_weight(struct task_ctx *tctx, u32 weight)
{
	struct tier_clock *clock = clock_of(tctx->llc, tctx->tier);

	if (!clock || weight == tctx->weight)
		return;
	__sync_fetch_and_add(&clock->weight, (u64)weight - (u64)tctx->weight);
	tctx->weight = weight;
}

/* Books `ns` of CPU time to the task and to its clock. */
static __always_inline void clock_charge(struct task_ctx *tctx, u64 ns)
{
	struct tier_clock *clock = clock_of(tctx->llc, tctx->tier);

	tctx->vruntime += virtual_of(ns, tctx->weight);
	if (clock)
		__sync_fetch_and_add(&clock->vnow, virtual_of(ns, MAX(clock->weight, tctx->weight)));
}

/*
 * Raises vruntime to what is due to one that was away or waited: at most the share of the last
 * `credit_ns`.
 */
static __always_inline void clock_limit_credit(struct task_ctx *tctx, u64 credit_ns)
{
	struct tier_clock *clock = clock_of(tctx->llc, tctx->tier);
	u64 low;

	if (!clock)
		return;
	low = clock->vnow - clock_way(clock, tctx->llc, credit_ns);
	if (time_before(tctx->vruntime, low))
		tctx->vruntime = low;
}

/* The task's virtual deadline, for its place in the queue. */
static __always_inline u64 clock_deadline(struct task_ctx *tctx)
{
	struct tier_clock *clock = clock_of(tctx->llc, tctx->tier);
	u64 high, latest, asked;

	if (!clock)
		return tctx->vruntime;
	clock_limit_credit(tctx, MAX_WAIT_NS);
	high = clock->vnow + MAX(clock_way(clock, tctx->llc, MAX_AHEAD_NS), virtual_of(SLICE_MAX_NS, tctx->weight));
	if (time_after(tctx->vruntime, high))
		tctx->vruntime = high;

	/* Who yields asks for a full slice: all others that want less go first. */
	asked = tctx->yielded ? SLICE_MAX_NS : MIN(tctx->burst_ns, SLICE_MAX_NS);
	tctx->yielded = false;
	tctx->key = tctx->vruntime + virtual_of(asked, tctx->weight);
	latest = clock->vnow + clock_way(clock, tctx->llc, MAX_WAIT_NS);
	if (time_after(tctx->key, latest))
		tctx->key = latest;
	return tctx->key;
}

#endif
