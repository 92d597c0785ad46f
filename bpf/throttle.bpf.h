/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Throttle: a process may use only `speed` thousandths of a CPU per thread, so that a live
 * migration gets ahead of its writes.
 *
 * After a thread ran for r it owes a pause of r * (1000 - speed) / speed; time it sleeps counts.
 * When it would be queued before that is over it goes to the paused queue, from which a timer puts
 * it into its real one. The timer runs in the kernel, once per millisecond while anything is
 * throttled: no runnable task ever waits for user space. User space starts it (arm_throttle) after
 * it has written a hint; it ends by itself a second after the last hint is gone and the queue is
 * empty.
 */
#ifndef SCX_MOSIX_THROTTLE_BPF_H
#define SCX_MOSIX_THROTTLE_BPF_H

#include "account.bpf.h"

#define THROTTLE_PERIOD_NS	NSEC_PER_MSEC
#define THROTTLE_GRACE		1000
/* Tasks released per turn of the timer, which runs with interrupts on but keeps its CPU. */
#define THROTTLE_BATCH		256

struct throttle_timer {
	struct bpf_timer timer;
	u32 armed;
	u32 idle_turns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct throttle_timer);
} throttle_timers SEC(".maps");

static int throttle_turn(void *map, u32 *key, struct throttle_timer *t)
{
	u64 now = bpf_ktime_get_ns();
	struct task_struct *p;
	u32 n = 0;

	bpf_for_each(scx_dsq, p, PAUSED_QUEUE, 0) {
		struct task_ctx *tctx;
		u64 queue;

		if (time_after(p->scx.dsq_vtime, now) || n++ >= THROTTLE_BATCH)
			break;
		tctx = task_ctx_of(p);
		if (!tctx)
			continue;
		queue = is_pinned(p) ? cpu_queue(scx_bpf_task_cpu(p), tctx->tier) : llc_queue(tctx->llc, tctx->tier);
		scx_bpf_dsq_move_set_vtime(BPF_FOR_EACH_ITER, tctx->key);
		scx_bpf_dsq_move_vtime(BPF_FOR_EACH_ITER, p, queue, 0);
		/*
		 * Whether it is idle or not: a CPU that went idle at this very moment would else
		 * not look again.
		 */
		scx_bpf_kick_cpu(scx_bpf_task_cpu(p), 0);
	}

	if (nr_throttled || scx_bpf_dsq_nr_queued(PAUSED_QUEUE) > 0)
		t->idle_turns = 0;
	else if (t->idle_turns++ > THROTTLE_GRACE) {
		/*
		 * A hint may have come between the look at nr_throttled and here: then continue,
		 * unless its writer armed anew.
		 */
		__sync_lock_test_and_set(&t->armed, 0);
		if (!nr_throttled || __sync_lock_test_and_set(&t->armed, 1))
			return 0;
	}
	bpf_timer_start(&t->timer, THROTTLE_PERIOD_NS, 0);
	return 0;
}

/* Run by user space (BPF_PROG_RUN) after it has written a speed hint. */
SEC("syscall")
int arm_throttle(void *ctx)
{
	struct throttle_timer *t;
	u32 zero = 0;

	t = bpf_map_lookup_elem(&throttle_timers, &zero);
	if (!t)
		return -ENOENT;
	t->idle_turns = 0;
	if (__sync_lock_test_and_set(&t->armed, 1))
		return 0;
	bpf_timer_init(&t->timer, &throttle_timers, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&t->timer, throttle_turn);
	return bpf_timer_start(&t->timer, THROTTLE_PERIOD_NS, 0);
}

#endif
