/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Queues. All are ordered by virtual deadline:
 *
 *	per LLC and tier	tasks that may run on more than one CPU
 *	per CPU and tier	tasks that may run on this CPU only
 *	paused			throttled tasks, ordered by the time from which they may run
 *				(throttle.bpf.h)
 *
 * A queued task is always in a queue that one of the CPUs it may run on looks at: that of an LLC
 * one of whose CPUs it may use, or that of its only CPU. When its affinity changes the kernel takes
 * it out and enqueues it again.
 */
#ifndef SCX_MOSIX_QUEUES_BPF_H
#define SCX_MOSIX_QUEUES_BPF_H

#include "tiers.bpf.h"

#define PAUSED_QUEUE	0xffffULL

static __always_inline u64 llc_queue(u32 llc, u32 tier)
{
	return (1ULL << 20) | (llc << 2) | tier;
}

static __always_inline u64 cpu_queue(s32 cpu, u32 tier)
{
	return (1ULL << 21) | ((u64)cpu << 2) | tier;
}

static __always_inline bool queue_waiting(s32 cpu, u32 llc, u32 tier)
{
	return scx_bpf_dsq_nr_queued(llc_queue(llc, tier)) > 0 || scx_bpf_dsq_nr_queued(cpu_queue(cpu, tier)) > 0;
}

/* Tasks in the LLC's shared queues, all tiers. */
static u64 queue_llc_length(u32 llc)
{
	u64 sum = 0;
	u32 t;

	for (t = 0; t < MOSIX_NR_TIERS; t++)
		sum += scx_bpf_dsq_nr_queued(llc_queue(llc, t));
	return sum;
}

/* The virtual deadline of the queue's first task, or false when it is empty. */
static bool queue_first(u64 queue, u64 *key)
{
	struct task_struct *p;
	bool some = false;

	bpf_rcu_read_lock();
	p = __COMPAT_scx_bpf_dsq_peek(queue);
	if (p) {
		*key = p->scx.dsq_vtime;
		some = true;
	}
	bpf_rcu_read_unlock();
	return some;
}

/*
 * Takes the tier's most urgent task that may run here. With `than` set, only if its deadline is
 * before *than: the running task then continues otherwise.
 */
static bool queue_take(s32 cpu, u32 llc, u32 tier, const u64 *than)
{
	u64 own_key = 0, llc_key = 0, first, second;
	bool own = queue_first(cpu_queue(cpu, tier), &own_key);
	bool shared = queue_first(llc_queue(llc, tier), &llc_key);

	if (!own && !shared)
		return false;
	if (own && (!shared || time_before(own_key, llc_key))) {
		if (than && !time_before(own_key, *than))
			return false;
		first = cpu_queue(cpu, tier);
		second = llc_queue(llc, tier);
	} else {
		if (than && !time_before(llc_key, *than))
			return false;
		first = llc_queue(llc, tier);
		second = cpu_queue(cpu, tier);
	}
	/*
	 * The second: what made the first look urgent may not be allowed here, or may just have
	 * been taken by another CPU.
	 */
	return scx_bpf_dsq_move_to_local(first, 0) || scx_bpf_dsq_move_to_local(second, 0);
}

/* Before going idle: takes a task from another LLC, the most urgent tier first. */
static bool queue_steal(u32 llc)
{
	u32 i, tier, other;

	for (tier = 0; tier < MOSIX_NR_TIERS; tier++) {
		bpf_for(i, 1, nr_llcs) {
			other = llc + i < nr_llcs ? llc + i : llc + i - nr_llcs;
			if (scx_bpf_dsq_nr_queued(llc_queue(other, tier)) > 0 &&
			    scx_bpf_dsq_move_to_local(llc_queue(other, tier), 0))
				return true;
		}
	}
	return false;
}

/*
 * The LLC whose queue a task joins: that of `cpu`, unless a neighbour's queue is clearly shorter
 * for its CPUs. Idle CPUs steal; this evens out queues when no CPU is idle. Neighbours are tried in
 * turn, one per call.
 */
static u32 queue_choose_llc(struct task_struct *p, s32 cpu, bool waking)
{
	u32 own = llc_of_cpu(cpu), other;
	u64 own_len, other_len;

	if (nr_llcs < 2 || p->nr_cpus_allowed < nr_cpus)
		return own;
	own_len = queue_llc_length(own);
	if (!own_len)
		return own;
	other = (own + 1 + bpf_get_prandom_u32() % (nr_llcs - 1)) % nr_llcs;
	other_len = queue_llc_length(other);
	/*
	 * Leaving a warm cache must pay: one waiting task per CPU of difference for who wakes, two
	 * for who was running.
	 */
	if (own_len * cpus_of_llc(other) >
	    (other_len + (waking ? 1 : 2) * cpus_of_llc(other)) * cpus_of_llc(own))
		return other;
	return own;
}

static s32 queues_create(void)
{
	u32 tier;
	s32 i, err;

	err = scx_bpf_create_dsq(PAUSED_QUEUE, -1);
	if (err)
		return err;
	for (tier = 0; tier < MOSIX_NR_TIERS; tier++) {
		bpf_for(i, 0, nr_llcs) {
			err = scx_bpf_create_dsq(llc_queue(i, tier), -1);
			if (err)
				return err;
		}
		bpf_for(i, 0, nr_cpus) {
			err = scx_bpf_create_dsq(cpu_queue(i, tier), -1);
			if (err)
				return err;
		}
	}
	return 0;
}

#endif
