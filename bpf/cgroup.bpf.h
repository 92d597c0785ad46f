/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cgroup weights, flattened: a task's full weight is its share of the whole machine; attained.bpf.h
 * makes its weight of it.
 *
 *	share(task) = share(cgroup) * nice weight / load(cgroup)
 *	share(cgroup) = share(parent) * cpu.weight / load(parent);  share(root) = 1
 *	load(cgroup) = nice weights of its own runnable tasks
 *	             + cpu.weight of its children that have anything runnable
 *
 * load is kept exactly: a cgroup that gets its first runnable member adds its cpu.weight to its
 * parent, and so on up; what it added is remembered under its lock, so that a change of cpu.weight
 * in between cannot leave a rest. share is cached for 4 ms: it is needed at every wake-up and need
 * not be exact.
 */
#ifndef SCX_MOSIX_CGROUP_BPF_H
#define SCX_MOSIX_CGROUP_BPF_H

#include "attained.bpf.h"

#define CGROUP_MAX_DEPTH	32
#define CGROUP_SHARE_TTL_NS	(4 * NSEC_PER_MSEC)
#define CGROUP_WEIGHT_DFL	100

struct cgroup_ctx {
	struct bpf_spin_lock lock;
	u32 weight;		/* cpu.weight */
	u32 counted;		/* what the parent's load contains of it */
	u32 nr_active;		/* runnable tasks and active children */
	u64 load;
	u64 share;		/* of WEIGHT_ONE */
	u64 share_until;
};

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct cgroup_ctx);
} cgroup_ctxs SEC(".maps");

static __always_inline struct cgroup_ctx *cgroup_ctx_of(struct cgroup *cgrp)
{
	return bpf_cgrp_storage_get(&cgroup_ctxs, cgrp, 0, 0);
}

/*
 * Adds one member (`active` = 1) or takes it away (-1) with its weight; returns what the parent's
 * load must change by.
 */
static __always_inline s64 cgroup_member(struct cgroup_ctx *cg, s64 weight, int active)
{
	s64 up = 0;

	bpf_spin_lock(&cg->lock);
	cg->load += weight;
	cg->nr_active += active;
	if (cg->nr_active && !cg->counted) {
		cg->counted = cg->weight;
		up = cg->counted;
	} else if (!cg->nr_active && cg->counted) {
		up = -(s64)cg->counted;
		cg->counted = 0;
	}
	bpf_spin_unlock(&cg->lock);
	return up;
}

/*
 * Books a member of `cgrp` in, out, or at another weight (active = 0), and what follows from it in
 * the ancestors.
 */
static void cgroup_book(struct cgroup *cgrp, s64 weight, int active)
{
	struct cgroup_ctx *cg = cgroup_ctx_of(cgrp);
	int level = cgrp->level, i;
	s64 up;

	if (!cg)
		return;
	up = cgroup_member(cg, weight, active);
	bpf_for(i, 0, CGROUP_MAX_DEPTH) {
		struct cgroup *parent;

		if (!up || --level < 0)
			break;
		parent = bpf_cgroup_ancestor(cgrp, level);
		if (!parent)
			break;
		cg = cgroup_ctx_of(parent);
		up = cg ? cgroup_member(cg, up, up > 0 ? 1 : -1) : 0;
		bpf_cgroup_release(parent);
	}
}

static u64 cgroup_share(struct cgroup *cgrp, struct cgroup_ctx *own, u64 now)
{
	u64 share = WEIGHT_ONE, load = 0;
	int level;

	if (time_before(now, own->share_until))
		return own->share;
	bpf_for(level, 0, CGROUP_MAX_DEPTH) {
		struct cgroup *at;
		struct cgroup_ctx *cg;

		if (level > cgrp->level)
			break;
		at = bpf_cgroup_ancestor(cgrp, level);
		if (!at)
			break;
		cg = cgroup_ctx_of(at);
		if (cg) {
			if (level)
				share = share * cg->weight / MAX(load, cg->weight);
			load = cg->load;
		}
		bpf_cgroup_release(at);
	}
	own->share = share;
	own->share_until = now + CGROUP_SHARE_TTL_NS;
	return share;
}

/* Recomputes the weight of a task that is runnable, or becomes so. */
static void cgroup_weigh(struct task_struct *p, struct task_ctx *tctx, u64 now)
{
	u32 nice_weight = MAX(p->scx.weight, 1);
	struct cgroup *cgrp = scx_bpf_task_cgroup(p);
	u64 weight = WEIGHT_ONE * nice_weight / CGROUP_WEIGHT_DFL;
	struct cgroup_ctx *cg;

	if (cgrp) {
		if (nice_weight != tctx->task_weight)
			cgroup_book(cgrp, (s64)nice_weight - tctx->task_weight, tctx->task_weight ? 0 : 1);
		cg = cgroup_ctx_of(cgrp);
		if (cg)
			weight = cgroup_share(cgrp, cg, now) * nice_weight / MAX(cg->load, nice_weight);
		bpf_cgroup_release(cgrp);
	}
	tctx->task_weight = nice_weight;
	tctx->full_weight = MAX(weight, 1);
	attained_weigh(p, tctx);
}

/* The task is not runnable any more. */
static void cgroup_unweigh(struct task_struct *p, struct task_ctx *tctx)
{
	struct cgroup *cgrp;

	if (tctx->task_weight) {
		cgrp = scx_bpf_task_cgroup(p);
		if (cgrp) {
			cgroup_book(cgrp, -(s64)tctx->task_weight, -1);
			bpf_cgroup_release(cgrp);
		}
		tctx->task_weight = 0;
	}
	clock_book_aging(tctx, 0, 0);
	clock_set_weight(tctx, 0);
}

static s32 cgroup_create(struct cgroup *cgrp, u32 weight)
{
	struct cgroup_ctx *cg = bpf_cgrp_storage_get(&cgroup_ctxs, cgrp, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!cg)
		return -ENOMEM;
	cg->weight = weight;
	return 0;
}

static void cgroup_reweigh(struct cgroup *cgrp, u32 weight)
{
	struct cgroup_ctx *cg = cgroup_ctx_of(cgrp);
	struct cgroup *parent;
	s64 up = 0;

	if (!cg)
		return;
	bpf_spin_lock(&cg->lock);
	cg->weight = weight;
	if (cg->counted) {
		up = (s64)weight - cg->counted;
		cg->counted = weight;
	}
	bpf_spin_unlock(&cg->lock);
	if (!up || cgrp->level < 1)
		return;
	parent = bpf_cgroup_ancestor(cgrp, cgrp->level - 1);
	if (parent) {
		cgroup_book(parent, up, 0);
		bpf_cgroup_release(parent);
	}
}

#endif
