/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * scx_mosix's scheduler: a complete sched_ext scheduler that one would keep on a machine with no
 * cluster.
 *
 * 1. What it is for. Owners come first: the programs of the node's own users (tier home) are served
 *    before programs that other nodes have sent here (guest), and the few threads that carry a
 *    migration (agent) before both. Within a tier each task gets CPU time by weight (nice value and
 *    cgroup weights), and a task that needs little CPU time gets it soon.
 *
 * 2. The way of a task.
 *
 *	wake-up -> select_cpu: an idle CPU? ---- yes --> its local queue
 *	                |  no                                (idle.bpf.h)
 *	                v
 *	            enqueue: throttled and has to pause? --> paused queue --(timer)--+   (throttle.bpf.h)
 *	                |  no                                                        |
 *	                v                                                            |
 *	   queue of its tier, of its LLC or its only CPU, by virtual deadline <------+   (queues.bpf.h, clock.bpf.h)
 *	                |         \--> a running task of a lower tier, or with a later deadline, is asked to make room
 *	                v
 *	            dispatch: owed tiers first, then agent, home, guest; before idling: steal from other LLCs
 *
 * 3. Fairness is by weighted virtual time per tier and LLC (clock.bpf.h); weights are flattened
 *    shares of the machine that include those of all cgroups above (cgroup.bpf.h), and those of
 *    jobs fall with the CPU time that they have had (attained.bpf.h).
 *
 * 4. No task starves, so that the kernel's watchdog, at its default, has no reason to act: within a
 *    queue every deadline is bounded and passed by the clock; lower tiers are owed a share of each
 *    CPU (tiers.bpf.h); every queue is looked at by a CPU that its tasks may use (queues.bpf.h);
 *    pauses of throttled tasks are bounded and end by a timer in the kernel.
 *
 * 5. Kernel threads bound to one CPU go straight to its local queue: they are few, short, and
 *    others wait for them.
 *
 * 6. Nothing here waits for user space. When its process dies, by whatever signal, the kernel
 *    closes the link and the kernel's own scheduler takes over; user space re-attaches after an
 *    ejection (src/scheduler/).
 */
#include "idle.bpf.h"
#include "slice.bpf.h"

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

s32 BPF_STRUCT_OPS(mosix_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct task_ctx *tctx = task_ctx_of(p);
	struct cpu_ctx *cctx;
	s32 cpu;

	if (!tctx)
		return prev_cpu;
	prev_cpu = cpu_allowed(p, prev_cpu);
	tier_refresh(p, tctx);
	if (must_pause(tctx, bpf_ktime_get_ns()))
		return prev_cpu;
	cpu = idle_claim(p, prev_cpu, wake_flags, false);
	if (cpu < 0)
		return prev_cpu;
	cctx = this_cpu_ctx();
	if (cctx)
		COUNT(cctx, nr_direct);
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_of(tctx, llc_of_cpu(cpu)), 0);
	return cpu;
}

void BPF_STRUCT_OPS(mosix_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tctx = task_ctx_of(p);
	struct cpu_ctx *here = this_cpu_ctx();
	s32 task_cpu = scx_bpf_task_cpu(p), cpu, idle;
	bool waking = enq_flags & SCX_ENQ_WAKEUP;
	u64 now = bpf_ktime_get_ns(), slice, queue;

	if (!tctx || !here) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
		return;
	}
	if ((p->flags & PF_KTHREAD) && p->nr_cpus_allowed == 1) {
		struct cpu_ctx *there = cpu_ctx_of(task_cpu);

		/* What waits for it should not wait for the end of a slice. */
		if (waking && there && time_before(there->running_since + WAKEUP_GRANULARITY_NS, now))
			enq_flags |= SCX_ENQ_PREEMPT;
		COUNT(here, nr_direct);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_MAX_NS, enq_flags);
		return;
	}

	tier_refresh(p, tctx);
	cgroup_weigh(p, tctx, now);
	cpu = cpu_allowed(p, task_cpu);
	slice = slice_of(tctx, llc_of_cpu(cpu));

	if (must_pause(tctx, now)) {
		clock_move(tctx, llc_of_cpu(cpu), tctx->tier);
		clock_deadline(tctx);
		COUNT(here, nr_paused);
		scx_bpf_dsq_insert_vtime(p, PAUSED_QUEUE, slice, tctx->paused_until, enq_flags);
		return;
	}

	/*
	 * select_cpu was not called for it (it was running, or moved, or may use one CPU only): it
	 * may still find an idle CPU.
	 */
	if (!__COMPAT_is_enq_cpu_selected(enq_flags) && !scx_bpf_task_running(p)) {
		idle = idle_claim(p, cpu, 0, true);
		if (idle >= 0) {
			COUNT(here, nr_direct);
			scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | idle, slice, enq_flags);
			scx_bpf_kick_cpu(idle, SCX_KICK_IDLE);
			return;
		}
	}
	/*
	 * The only one that wants this CPU: it continues (dispatch has found nothing else and could
	 * not keep it).
	 */
	if (enq_flags & SCX_ENQ_LAST) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice, enq_flags);
		return;
	}

	COUNT(here, nr_queued);
	if (is_pinned(p)) {
		clock_move(tctx, llc_of_cpu(cpu), tctx->tier);
		queue = cpu_queue(cpu, tctx->tier);
	} else {
		clock_move(tctx, queue_choose_llc(p, cpu, waking), tctx->tier);
		queue = llc_queue(tctx->llc, tctx->tier);
	}
	scx_bpf_dsq_insert_vtime(p, queue, slice, clock_deadline(tctx), enq_flags);

	/*
	 * The CPU on whose runqueue the task is looks into its queues by itself after this. One
	 * that the task was moved away from does not look for it: any CPU that does must be told,
	 * even if it seems busy, for it may be going idle just now.
	 */
	if (cpu != task_cpu || tctx->llc != llc_of_cpu(cpu)) {
		idle = is_pinned(p) ? cpu : scx_bpf_pick_any_cpu(p->cpus_ptr, 0);
		if (idle >= 0)
			scx_bpf_kick_cpu(idle, 0);
	}
	if (waking || cpu != task_cpu)
		idle_or_preempt(p, tctx, cpu, now);
}

void BPF_STRUCT_OPS(mosix_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 llc = llc_of_cpu(cpu), tier, prev_tier = MOSIX_TIER_NONE, i;
	struct cpu_ctx *cctx = this_cpu_ctx();
	struct task_ctx *tctx = NULL;
	u64 prev_key = 0;

	if (!cctx)
		return;
	cctx->next_owed = false;

	if (prev && (prev->scx.flags & SCX_TASK_QUEUED)) {
		u64 now = bpf_ktime_get_ns();

		tctx = task_ctx_of(prev);
		if (tctx) {
			account_charge(prev, tctx, cctx, cpu, now);
			if (!must_pause(tctx, now) && !tctx->yielded) {
				prev_tier = tctx->tier;
				prev_key = cctx->running_key;
			}
		}
	}

	bpf_for(i, 1, MOSIX_NR_TIERS) {
		tier = MOSIX_NR_TIERS - i;
		if (!tier_is_owed(cctx, tier))
			continue;
		if (queue_take(cpu, llc, tier, NULL)) {
			COUNT(cctx, nr_owed);
			cctx->next_owed = true;
			return;
		}
		tier_forgive(cctx, tier);
	}
	bpf_for(tier, 0, MOSIX_NR_TIERS) {
		if (queue_take(cpu, llc, tier, tier == prev_tier ? &prev_key : NULL))
			return;
		if (tctx && tier == prev_tier && keep_running(prev, tctx, cctx, cpu))
			return;
	}
	if (nr_llcs > 1 && queue_steal(llc))
		COUNT(cctx, nr_stolen);
}

void BPF_STRUCT_OPS(mosix_runnable, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tctx = task_ctx_of(p);
	u64 now = bpf_ktime_get_ns();

	if (!tctx)
		return;
	tctx->runnable_since = now;
	if (enq_flags & SCX_ENQ_WAKEUP)
		attained_forget(p, tctx, now);
	cgroup_weigh(p, tctx, now);
	if (enq_flags & SCX_ENQ_WAKEUP)
		clock_limit_credit(tctx, SLEEP_CREDIT_NS);
}

void BPF_STRUCT_OPS(mosix_running, struct task_struct *p)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct task_ctx *tctx = task_ctx_of(p);
	struct cpu_ctx *cctx = this_cpu_ctx();
	u64 now = bpf_ktime_get_ns();
	u32 llc = llc_of_cpu(cpu);

	if (!tctx || !cctx)
		return;
	clock_move(tctx, llc, tctx->tier);
	tctx->yielded = false;
	account_start(tctx, cctx, now);
	cctx->running_since = now;
	cctx->running_key = tctx->vruntime + virtual_of(MIN(tctx->burst_ns, SLICE_MAX_NS), tctx->weight);
	cctx->running_owed = cctx->next_owed;
	set_running(cctx, llc, tctx->tier);
}

void BPF_STRUCT_OPS(mosix_stopping, struct task_struct *p, bool runnable)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct task_ctx *tctx = task_ctx_of(p);
	struct cpu_ctx *cctx = this_cpu_ctx();
	u64 now = bpf_ktime_get_ns();

	if (!tctx || !cctx)
		return;
	account_charge(p, tctx, cctx, cpu, now);
	set_running(cctx, cctx->running_llc, MOSIX_TIER_NONE);
	cctx->running_owed = false;
	tctx->runnable_since = now;
	if (runnable)
		account_preempted(tctx);
	else
		account_sleep(tctx);
}

void BPF_STRUCT_OPS(mosix_quiescent, struct task_struct *p, u64 deq_flags)
{
	struct task_ctx *tctx = task_ctx_of(p);

	if (tctx)
		cgroup_unweigh(p, tctx);
}

/*
 * Keeps the accounts of long-running tasks fresh, and ends the slice of one that is in the way of a
 * better tier.
 */
void BPF_STRUCT_OPS(mosix_tick, struct task_struct *p)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct task_ctx *tctx = task_ctx_of(p);
	struct cpu_ctx *cctx = this_cpu_ctx();
	u32 tier, llc = llc_of_cpu(cpu);

	if (!tctx || !cctx)
		return;
	account_charge(p, tctx, cctx, cpu, bpf_ktime_get_ns());
	tier_refresh(p, tctx);
	if (tctx->tier != cctx->running_tier)
		set_running(cctx, llc, tctx->tier);
	if (cctx->running_owed && tier_is_owed(cctx, tctx->tier))
		return;
	cctx->running_owed = false;
	bpf_for(tier, 0, MOSIX_NR_TIERS) {
		if (tier == tctx->tier)
			continue;
		if (tier < tctx->tier ? queue_waiting(cpu, llc, tier) : tier_is_owed(cctx, tier)) {
			scx_bpf_task_set_slice(p, 0);
			return;
		}
	}
}

bool BPF_STRUCT_OPS(mosix_yield, struct task_struct *from, struct task_struct *to)
{
	struct task_ctx *tctx = task_ctx_of(from);

	if (to || !tctx)
		return false;
	tctx->yielded = true;
	scx_bpf_task_set_slice(from, 0);
	return false;
}

void BPF_STRUCT_OPS(mosix_set_weight, struct task_struct *p, u32 weight)
{
	struct task_ctx *tctx = task_ctx_of(p);

	if (tctx && tctx->task_weight)
		cgroup_weigh(p, tctx, bpf_ktime_get_ns());
}

s32 BPF_STRUCT_OPS(mosix_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct task_ctx *tctx = bpf_task_storage_get(&task_ctxs, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!tctx)
		return -ENOMEM;
	tctx->tier = MOSIX_TIER_HOME;
	tctx->speed_permille = MOSIX_FULL_SPEED_PERMILLE;
	/* No generation that hint_generation has: looks its hints up first thing. */
	tctx->hint_generation = ~0ULL;
	if (args->fork)
		attained_inherit(p, tctx, bpf_ktime_get_ns());
	return 0;
}

void BPF_STRUCT_OPS(mosix_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	u32 tgid = p->tgid;

	/* The pid may belong to another process soon. */
	if (p->pid == p->tgid && !args->cancelled)
		bpf_map_delete_elem(&process_hints, &tgid);
}

void BPF_STRUCT_OPS(mosix_enable, struct task_struct *p)
{
	struct task_ctx *tctx = task_ctx_of(p);
	struct tier_clock *clock;

	if (!tctx)
		return;
	tier_refresh(p, tctx);
	clock_move(tctx, llc_of_cpu(scx_bpf_task_cpu(p)), tctx->tier);
	clock = clock_of(tctx->llc, tctx->tier);
	if (clock)
		tctx->vruntime = clock->vnow;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(mosix_cgroup_init, struct cgroup *cgrp, struct scx_cgroup_init_args *args)
{
	return cgroup_create(cgrp, args->weight);
}

void BPF_STRUCT_OPS(mosix_cgroup_exit, struct cgroup *cgrp)
{
	u64 id = cgrp->kn->id;

	bpf_map_delete_elem(&cgroup_hints, &id);
}

void BPF_STRUCT_OPS(mosix_cgroup_set_weight, struct cgroup *cgrp, u32 weight)
{
	cgroup_reweigh(cgrp, weight);
}

void BPF_STRUCT_OPS(mosix_dump, struct scx_dump_ctx *dctx)
{
	u32 llc, tier;

	bpf_for(llc, 0, nr_llcs) {
		bpf_for(tier, 0, MOSIX_NR_TIERS) {
			struct tier_clock *clock = clock_of(llc, tier);

			if (clock)
				scx_bpf_dump("llc %d tier %d: queued %d, clock %llu, weight %llu\n", llc, tier,
					     scx_bpf_dsq_nr_queued(llc_queue(llc, tier)), clock->vnow, clock->weight);
		}
	}
}

s32 BPF_STRUCT_OPS_SLEEPABLE(mosix_init)
{
	s32 cpu;

	bpf_for(cpu, 0, nr_cpus) {
		struct cpu_ctx *cctx = cpu_ctx_of(cpu);

		if (cctx)
			cctx->running_tier = MOSIX_TIER_NONE;
	}
	return queues_create();
}

void BPF_STRUCT_OPS(mosix_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(mosix_ops,
	       .select_cpu		= (void *)mosix_select_cpu,
	       .enqueue			= (void *)mosix_enqueue,
	       .dispatch		= (void *)mosix_dispatch,
	       .tick			= (void *)mosix_tick,
	       .runnable		= (void *)mosix_runnable,
	       .running			= (void *)mosix_running,
	       .stopping		= (void *)mosix_stopping,
	       .quiescent		= (void *)mosix_quiescent,
	       .yield			= (void *)mosix_yield,
	       .set_weight		= (void *)mosix_set_weight,
	       .init_task		= (void *)mosix_init_task,
	       .exit_task		= (void *)mosix_exit_task,
	       .enable			= (void *)mosix_enable,
	       .cgroup_init		= (void *)mosix_cgroup_init,
	       .cgroup_exit		= (void *)mosix_cgroup_exit,
	       .cgroup_set_weight	= (void *)mosix_cgroup_set_weight,
	       .dump			= (void *)mosix_dump,
	       .init			= (void *)mosix_init,
	       .exit			= (void *)mosix_exit,
	       .flags			= SCX_OPS_ENQ_LAST,
	       .name			= "mosix");
