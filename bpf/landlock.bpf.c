/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which processes have confined themselves by Landlock: the kernel tells it nowhere, but a
 * process's credentials hold its domain. A task iterator, pinned in bpffs, so that each reader of
 * the pinned file gets one line for each confined thread, with the number of its process; it works
 * as long as it is pinned, whether or not a daemon runs.
 *
 * It is an object of its own, and not part of telemetry.bpf.c, because a kernel without Landlock
 * lacks structures that it names and would refuse the whole object.
 */
/*
 * The names that bpf_helpers.h expects of linux/types.h, whose place differs between distributions.
 */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char _license[] SEC("license") = "GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct cred {
	void *security;
};

struct task_struct {
	int tgid;
	const struct cred *real_cred;
};

/* Where in the memory that each security module shares its own part begins. */
struct lsm_blob_sizes {
	unsigned int lbs_cred;
};

struct landlock_cred_security {
	void *domain;
};

struct seq_file {
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

/* The address of the kernel's variable of this name. */
const volatile __u64 landlock_blob_sizes;

SEC("iter/task")
int landlocked(struct bpf_iter__task *ctx)
{
	struct lsm_blob_sizes *sizes = (struct lsm_blob_sizes *)landlock_blob_sizes;
	struct task_struct *p = ctx->task;
	struct landlock_cred_security *own;
	unsigned int offset = 0;
	void *domain = 0;

	if (!p)
		return 0;
	if (bpf_core_read(&offset, sizeof(offset), &sizes->lbs_cred))
		goto unknown;
	own = p->real_cred->security + offset;
	if (bpf_core_read(&domain, sizeof(domain), &own->domain))
		goto unknown;
	if (domain)
		BPF_SEQ_PRINTF(ctx->meta->seq, "%d\n", p->tgid);
	return 0;
unknown:
	/* No number: its reader knows that the list is worth nothing. */
	BPF_SEQ_PRINTF(ctx->meta->seq, "?\n");
	return 0;
}
