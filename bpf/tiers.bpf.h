/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tiers: agent before home before guest, and a guaranteed share for the lower ones.
 *
 * Which tier: a process's own hint, else the hint of the nearest ancestor of its cgroup (in the
 * unified hierarchy, whichever controllers are on) that has one, else home. Guests are marked by
 * the cgroup in which their agent put them: whatever they fork inherits the tier, with no window in
 * which a child would count as home's. Looking up costs a comparison of two numbers as long as
 * neither the hints nor the task's cgroup have changed.
 *
 * Guaranteed share: while a lower tier waits, each CPU owes it a fixed part of the time that better
 * tiers get there. Debts are kept per CPU, so that a task that may run on one CPU only gets its
 * part too. When a debt reaches a turn's length the lower tier gets one turn, in which better tiers
 * do not preempt it. A turn ends at a tick, mostly late: what guests took too much counts against
 * their next one; owners have at least what they are owed. When the tier has nothing waiting, or
 * gets CPU time anyhow, the debt lapses.
 */
#ifndef SCX_MOSIX_TIERS_BPF_H
#define SCX_MOSIX_TIERS_BPF_H

#include "cgroup.bpf.h"

/*
 * Of the time that better tiers get while the tier waits, in percent. Set by the loader before
 * load, constant afterwards.
 */
const volatile u32 owed_to_home_percent;
const volatile u32 owed_to_guest_percent;
/* A debt is paid when it has reached this. */
#define OWED_TURN_NS		(4 * NSEC_PER_MSEC)
/* Neither the CPU's debt to a tier nor the tier's to the others goes beyond this. */
#define OWED_MOST_NS		(s64)(4 * OWED_TURN_NS)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);	/* tgid */
	__type(value, struct mosix_process_hint);
} process_hints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct mosix_cgroup_hint);
} cgroup_hints SEC(".maps");

/*
 * What is said of the cgroup of the task: the tier of the nearest ancestor that has one, and
 * whether any is a job's.
 */
static void hint_of_cgroup(struct task_struct *p, u32 *tier, bool *is_job)
{
	struct mosix_cgroup_hint *hint;
	struct cgroup *cgrp, *at;
	int up, level;
	u64 id;

	*tier = MOSIX_TIER_NONE;
	*is_job = false;
	if (!nr_cgroup_hints)
		return;
	bpf_rcu_read_lock();
	cgrp = p->cgroups->dfl_cgrp;
	level = cgrp->level;
	bpf_for(up, 0, CGROUP_MAX_DEPTH) {
		if (level - up < 0)
			break;
		at = bpf_cgroup_ancestor(cgrp, level - up);
		if (!at)
			break;
		id = at->kn->id;
		bpf_cgroup_release(at);
		hint = bpf_map_lookup_elem(&cgroup_hints, &id);
		if (!hint)
			continue;
		if (*tier >= MOSIX_NR_TIERS)
			*tier = hint->tier;
		if (hint->is_job)
			*is_job = true;
	}
	bpf_rcu_read_unlock();
}

/* Brings the task's tier and speed, and whether its age counts, up to date with the hints. */
static void tier_refresh(struct task_struct *p, struct task_ctx *tctx)
{
	u64 generation = hint_generation, cgroup = p->cgroups->dfl_cgrp->kn->id;
	u32 tgid = p->tgid, tier;
	struct mosix_process_hint *hint;
	bool is_job;

	if (generation == tctx->hint_generation && cgroup == tctx->hint_cgroup)
		return;
	tctx->hint_generation = generation;
	tctx->hint_cgroup = cgroup;

	hint_of_cgroup(p, &tier, &is_job);
	tctx->by_attained = attained_applies(p, is_job);
	hint = bpf_map_lookup_elem(&process_hints, &tgid);
	tctx->speed_permille = hint ? hint->speed_permille : MOSIX_FULL_SPEED_PERMILLE;
	if (hint && hint->tier < MOSIX_NR_TIERS)
		tier = hint->tier;
	clock_move(tctx, tctx->llc, tier < MOSIX_NR_TIERS ? tier : MOSIX_TIER_HOME);
}

static __always_inline bool tier_is_owed(struct cpu_ctx *cctx, u32 tier)
{
	s64 *owed = owed_of(cctx, tier);

	return owed && *owed >= (s64)OWED_TURN_NS;
}

/* What waits of the tier may not run here: nothing that this CPU could owe it. */
static __always_inline void tier_forgive(struct cpu_ctx *cctx, u32 tier)
{
	s64 *owed = owed_of(cctx, tier);

	if (owed)
		*owed = 0;
}

/*
 * The CPU ran a task of `ran` for `ns`: settles its debt to `tier`, which has tasks waiting for it
 * or not.
 */
static __always_inline void tier_settle(struct cpu_ctx *cctx, u32 tier, u32 ran, u64 ns, bool waiting)
{
	u64 percent = tier == MOSIX_TIER_HOME ? owed_to_home_percent : owed_to_guest_percent;
	s64 *owed = owed_of(cctx, tier);

	if (!owed)
		return;
	if (tier == ran && cctx->running_owed)
		*owed = MAX(*owed - (s64)ns, tier == MOSIX_TIER_GUEST ? -OWED_MOST_NS : 0);
	else if (tier == ran || !waiting)
		*owed = MIN(*owed, 0);
	else if (tier > ran)
		*owed = MIN(*owed + (s64)(ns * percent / 100), OWED_MOST_NS);
}

#endif
