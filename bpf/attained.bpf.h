/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Attained service: within a tier, processes with little attained service come first, the others
 * have a guaranteed share. A process's weight falls with the CPU time that it has attained, by
 * levels as in a multi-level feedback queue: full up to attained_first_ns; each doubling of the CPU
 * time begins a level and shifts the weight by attained_level_shift, by attained_least_shift at
 * most. Levels multiply with nice values and cgroup weights. Why: src/scheduler/attained.rs; the
 * values: src/scheduler/config.rs, from which the loader sets them.
 *
 * What counts is the CPU time of the process, all its threads together: that is what the
 * distribution of lifetimes was measured on, and a program that makes a thread for each bit of work
 * ages as well. It is kept with the process's first thread, whose storage lives as long as the
 * process. The others add to it atomically, as they do to their tier's clock anyhow.
 *
 *	fork	A child begins with its parent's time, but at most at the end of the first level. A
 *		program that continues in one child after the other is never again served like a
 *		fresh one; the compilers of a long build are still far ahead of programs with much
 *		attained service, and make itself uses little.
 *	thread	Counts with its process. It remembers what the process had when it came, should exec
 *		make it the process's first.
 *	sleep	A part of the time slept (attained_forget_shift) is taken off: an editor does not
 *		age, however long it is used.
 *
 * Which processes make room: those with much attained service among those for which it counts, and
 * only for those with little. All of them together weigh what they would without levels, so that a
 * job which is alone with programs that are none has its full share however old it is. The sums are
 * kept with the clock; a task takes its part of them when it is charged or queued, so what waits is
 * weighed a turn late.
 *
 * A crowd of new processes, be it a fork bomb, has no more than the shares of all jobs: what weight
 * the others lose goes to those of the tier, not to their own cgroup alone. And whatever the
 * weights, no key lies further ahead than clock.bpf.h allows, so that no task waits for ever.
 */
#ifndef SCX_MOSIX_ATTAINED_BPF_H
#define SCX_MOSIX_ATTAINED_BPF_H

#include "clock.bpf.h"

/* Set by the loader before load, constant afterwards. */
const volatile u32 attained_service;	/* enum mosix_attained_service */
const volatile u64 attained_first_ns;
const volatile u32 attained_level_shift;
const volatile u32 attained_least_shift;
const volatile u32 attained_forget_shift;

/* More levels than any shift leaves something of. */
#define ATTAINED_MAX_LEVELS	32

/*
 * Whether the task's weight is to depend on its process's age. Kernel threads serve others, and do
 * not age.
 */
static __always_inline bool attained_applies(const struct task_struct *p, bool is_job)
{
	if (attained_service == MOSIX_ATTAINED_ALL)
		return !(p->flags & PF_KTHREAD);
	return attained_service == MOSIX_ATTAINED_JOBS && is_job;
}

/* Where the process's CPU time is kept. */
static __always_inline struct task_ctx *attained_process(struct task_struct *p, struct task_ctx *tctx)
{
	struct task_ctx *first;

	if (p->pid == p->tgid)
		return tctx;
	first = bpf_task_storage_get(&task_ctxs, p->group_leader, 0, 0);
	return first ? first : tctx;
}

/* By how much a process that has attained so much CPU time has its weight shifted. */
static u32 attained_shift(s64 attained_ns)
{
	s64 level_end_ns = attained_first_ns;
	u32 shift = 0, i;

	bpf_for(i, 0, ATTAINED_MAX_LEVELS) {
		if (attained_ns < level_end_ns || shift >= attained_least_shift)
			break;
		shift += attained_level_shift;
		level_end_ns <<= 1;
	}
	return MIN(shift, attained_least_shift);
}

/*
 * Gives a runnable task its weight: of what all those whose age counts weigh together, the part
 * that its age leaves it.
 */
static void attained_weigh(struct task_struct *p, struct task_ctx *tctx)
{
	struct tier_clock *clock = clock_of(tctx->llc, tctx->tier);
	u64 left = tctx->full_weight;

	if (!tctx->by_attained || !clock) {
		clock_book_aging(tctx, 0, 0);
		clock_set_weight(tctx, left);
		return;
	}
	left = MAX(left >> (attained_shift(attained_process(p, tctx)->attained_ns) & 31), 1);
	clock_book_aging(tctx, tctx->full_weight, left);
	clock_set_weight(tctx, MAX(left * clock->aging_full / MAX(clock->aging_left, left), 1));
}

/* Books `ns` of CPU time to the running task's process. */
static __always_inline void attained_charge(struct task_struct *p, struct task_ctx *tctx, u64 ns, u64 now)
{
	struct task_ctx *process;

	if (!tctx->by_attained)
		return;
	process = attained_process(p, tctx);
	__sync_fetch_and_add(&process->attained_ns, ns);
	process->active_at = now;
	if (tctx->weight)
		attained_weigh(p, tctx);
}

/*
 * A thread wakes: takes a part of the time off in which none of its process ran or woke. Two
 * threads that wake at once may take it off twice, and the time below zero: less than zero is as
 * good as zero.
 */
static __always_inline void attained_forget(struct task_struct *p, struct task_ctx *tctx, u64 now)
{
	struct task_ctx *process;
	s64 attained_ns, slept_ns;

	if (!tctx->by_attained)
		return;
	process = attained_process(p, tctx);
	attained_ns = process->attained_ns;
	slept_ns = now - process->active_at;
	process->active_at = now;
	if (attained_ns > 0 && slept_ns > 0)
		__sync_fetch_and_sub(&process->attained_ns, MIN(attained_ns, slept_ns >> (attained_forget_shift & 63)));
}

/*
 * The running task forks `p`. A task that was there before the scheduler, or comes from another
 * node, begins at the first level: what it had is not known here, and the floor is a few seconds
 * away.
 */
static void attained_inherit(struct task_struct *p, struct task_ctx *tctx, u64 now)
{
	struct task_struct *parent = bpf_get_current_task_btf();
	struct task_ctx *parent_ctx = task_ctx_of(parent);
	s64 attained_ns;

	tctx->active_at = now;
	if (!parent_ctx || !parent_ctx->by_attained)
		return;
	attained_ns = attained_process(parent, parent_ctx)->attained_ns;
	tctx->attained_ns = p->pid == p->tgid ? MIN(attained_ns, (s64)attained_first_ns) : attained_ns;
}

#endif
