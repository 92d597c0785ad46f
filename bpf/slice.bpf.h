/* SPDX-License-Identifier: GPL-2.0-only */
/* How long a task may run at a time. */
#ifndef SCX_MOSIX_SLICE_BPF_H
#define SCX_MOSIX_SLICE_BPF_H

#include "account.bpf.h"

/*
 * A slice is short enough that the tasks waiting in the LLC all get a turn soon, but not so short
 * that switching eats it up.
 */
static u64 slice_of(const struct task_ctx *tctx, u32 llc)
{
	u64 waiting, slice;

	if (is_throttled(tctx))
		return THROTTLE_SLICE_NS;
	waiting = tctx->tier < MOSIX_NR_TIERS ? scx_bpf_dsq_nr_queued(llc_queue(llc, tctx->tier)) : 0;
	slice = 2 * SLICE_MAX_NS * cpus_of_llc(llc) / (waiting + 1);
	return MAX(MIN(slice, SLICE_MAX_NS), SLICE_MIN_NS);
}

/*
 * The task whose slice is over: it continues if its tier is the best that waits and its deadline is
 * still the earliest.
 */
static bool keep_running(struct task_struct *prev, struct task_ctx *tctx, struct cpu_ctx *cctx, s32 cpu)
{
	if (!bpf_cpumask_test_cpu(cpu, prev->cpus_ptr))
		return false;
	scx_bpf_task_set_slice(prev, slice_of(tctx, llc_of_cpu(cpu)));
	cctx->next_owed = false;
	return true;
}

#endif
