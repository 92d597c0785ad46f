/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a woken task goes: to an idle CPU, chosen by the kernel's own helpers, which prefer the
 * previous CPU when its whole core is idle, then idle cores and CPUs of the same LLC and NUMA node,
 * then any; and for synchronous wake-ups the waker's CPU. When none is idle: which running task has
 * to make room, if any.
 */
#ifndef SCX_MOSIX_IDLE_BPF_H
#define SCX_MOSIX_IDLE_BPF_H

#include "throttle.bpf.h"

/* CPUs looked at in search of one that runs a lower tier. */
#define PREEMPT_PROBES	64

/* An idle CPU for the task, which is claimed thereby, or a negative number. */
static s32 idle_claim(struct task_struct *p, s32 prev_cpu, u64 wake_flags, bool enqueueing)
{
	bool is_idle = false;
	s32 cpu;

	if (is_pinned(p))
		return scx_bpf_test_and_clear_cpu_idle(prev_cpu) ? prev_cpu : -EBUSY;
	/*
	 * Since 6.16; with cpus_ptr it does all that select_cpu_dfl does, and may be called while
	 * enqueueing, too.
	 */
	if (__COMPAT_HAS_scx_bpf_select_cpu_and)
		return scx_bpf_select_cpu_and(p, prev_cpu, wake_flags, p->cpus_ptr, 0);
	if (enqueueing)
		return scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	return is_idle ? cpu : -EBUSY;
}

/* A CPU that the task may use: the one it is on, else any online one. */
static s32 cpu_allowed(struct task_struct *p, s32 cpu)
{
	const struct cpumask *online;
	u32 found;

	if (cpu >= 0 && bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		return cpu;
	online = scx_bpf_get_online_cpumask();
	found = bpf_cpumask_any_and_distribute(p->cpus_ptr, online);
	scx_bpf_put_cpumask(online);
	return found < nr_cpus ? found : cpu;
}

static __always_inline bool runs_lower_tier(const struct cpu_ctx *cctx, u32 tier)
{
	return cctx->running_tier < MOSIX_NR_TIERS && cctx->running_tier > tier && !cctx->running_owed;
}

/*
 * Whether the woken task may push aside what runs on the CPU: a lower tier always (unless that has
 * its owed turn), its own tier when its deadline is earlier than the running task's and that has
 * had a moment to get something done.
 */
static bool may_preempt(const struct task_ctx *tctx, const struct cpu_ctx *cctx, s32 cpu, u64 now)
{
	if (runs_lower_tier(cctx, tctx->tier))
		return true;
	return cctx->running_tier == tctx->tier && cctx->running_llc == tctx->llc &&
	       time_before(cctx->running_since + WAKEUP_GRANULARITY_NS, now) &&
	       time_before(tctx->key, cctx->running_key);
}

static bool llc_runs_lower_tier(u32 llc, u32 tier)
{
	u32 *homes = nr_running_of(llc, MOSIX_TIER_HOME), *guests = nr_running_of(llc, MOSIX_TIER_GUEST);

	return (tier < MOSIX_TIER_GUEST && guests && *guests) || (tier < MOSIX_TIER_HOME && homes && *homes);
}

/* The task was queued for `cpu` or its LLC, and no CPU was idle: wakes a CPU that looks. */
static void idle_or_preempt(struct task_struct *p, struct task_ctx *tctx, s32 cpu, u64 now)
{
	struct cpu_ctx *cctx;
	s32 other, i;

	cctx = cpu_ctx_of(cpu);
	if (cctx && may_preempt(tctx, cctx, cpu, now)) {
		COUNT(cctx, nr_preempted);
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
		return;
	}
	if (is_pinned(p))
		return;
	/* One may have gone idle since we looked. */
	other = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (other >= 0) {
		scx_bpf_kick_cpu(other, SCX_KICK_IDLE);
		return;
	}
	if (!llc_runs_lower_tier(tctx->llc, tctx->tier))
		return;
	bpf_for(i, 1, PREEMPT_PROBES) {
		if (i >= nr_cpus)
			break;
		other = (cpu + i) % nr_cpus;
		if (llc_of_cpu(other) != tctx->llc || !bpf_cpumask_test_cpu(other, p->cpus_ptr))
			continue;
		cctx = cpu_ctx_of(other);
		if (cctx && runs_lower_tier(cctx, tctx->tier)) {
			COUNT(cctx, nr_preempted);
			scx_bpf_kick_cpu(other, SCX_KICK_PREEMPT);
			return;
		}
	}
}

#endif
