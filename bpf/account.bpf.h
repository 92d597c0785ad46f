/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Accounts: what tasks run is charged to their clocks, their processes and their tiers; per tier
 * also time runnable but waiting, and turns.
 */
#ifndef SCX_MOSIX_ACCOUNT_BPF_H
#define SCX_MOSIX_ACCOUNT_BPF_H

#include "queues.bpf.h"

/*
 * Longest pause of a throttled task at a time, and its slice: short, so that signals and the
 * freezer are answered soon. A slice ends at a tick (1 to 4 ms), so that the lowest speed that can
 * be had is about 40 thousandths.
 */
#define PAUSE_MAX_NS		(100 * NSEC_PER_MSEC)
#define THROTTLE_SLICE_NS	NSEC_PER_MSEC

static __always_inline bool is_throttled(const struct task_ctx *tctx)
{
	return tctx->speed_permille && tctx->speed_permille < MOSIX_FULL_SPEED_PERMILLE;
}

/* Has to pause for what it has run since it was charged for it last. */
static __always_inline void throttle_owe(struct task_ctx *tctx, u64 ran_ns, u64 now)
{
	u64 pause;

	if (!is_throttled(tctx))
		return;
	pause = ran_ns * (MOSIX_FULL_SPEED_PERMILLE - tctx->speed_permille) / MAX(tctx->speed_permille, 1);
	if (time_before(tctx->paused_until, now))
		tctx->paused_until = now;
	tctx->paused_until = MIN(tctx->paused_until + pause, now + PAUSE_MAX_NS);
}

static __always_inline bool must_pause(const struct task_ctx *tctx, u64 now)
{
	return is_throttled(tctx) && time_after(tctx->paused_until, now);
}

/*
 * Books the CPU time since the last call: in the task's clock, its process, the tier's statistics
 * and the debts.
 */
static void account_charge(struct task_struct *p, struct task_ctx *tctx, struct cpu_ctx *cctx, s32 cpu, u64 now)
{
	u64 ns = now - tctx->charged_until;
	u32 llc = llc_of_cpu(cpu), tier = tctx->tier;
	struct mosix_tier_stats *stats = stats_of(cctx, tier);

	if (time_before(now, tctx->charged_until) || !stats)
		return;
	tctx->charged_until = now;
	tctx->ran_since_wake_ns += ns;
	stats->run_ns += ns;
	clock_charge(tctx, ns);
	attained_charge(p, tctx, ns, now);
	throttle_owe(tctx, ns, now);

	tier_settle(cctx, MOSIX_TIER_HOME, tier, ns, queue_waiting(cpu, llc, MOSIX_TIER_HOME));
	tier_settle(cctx, MOSIX_TIER_GUEST, tier, ns, queue_waiting(cpu, llc, MOSIX_TIER_GUEST));
	cctx->running_key = tctx->vruntime + virtual_of(MIN(tctx->burst_ns, SLICE_MAX_NS), tctx->weight);
}

static void account_start(struct task_ctx *tctx, struct cpu_ctx *cctx, u64 now)
{
	struct mosix_tier_stats *stats = stats_of(cctx, tctx->tier);
	u64 waited = time_after(now, tctx->runnable_since) ? now - tctx->runnable_since : 0;

	tctx->charged_until = now;
	if (stats) {
		stats->wait_ns += waited;
		stats->switches++;
	}
}

/* The task sleeps: what it ran since it woke is what it will ask for next time. */
static __always_inline void account_sleep(struct task_ctx *tctx)
{
	tctx->burst_ns = (tctx->burst_ns * 3 + tctx->ran_since_wake_ns) / 4;
	tctx->ran_since_wake_ns = 0;
}

/* A task that does not sleep asks for what it uses. */
static __always_inline void account_preempted(struct task_ctx *tctx)
{
	if (tctx->ran_since_wake_ns > tctx->burst_ns)
		tctx->burst_ns = MIN(tctx->ran_since_wake_ns, SLICE_MAX_NS);
}

#endif
