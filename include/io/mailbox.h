/* Messages between workers. Each worker has one mailbox; anybody may post to it, its owner alone
 * takes out. Two kinds:
 *
 *   message  a function and up to 48 bytes, by value, in a bounded lock-free queue, first in, first
 *            out. The queue may be full: the sender decides what then.
 *   signal   a bit that says "look again": it never gets lost and never needs room, because the
 *            receiver reads the state itself. Preferred wherever the state is shared anyway.
 *
 * The sender wakes the owner only when nobody has since the owner last looked: from a worker by
 * MSG_RING, once a self-test at the start has seen one arrive; until then, from other threads, and
 * on kernels where the test fails, through an eventfd. No message lives in the kernel alone. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct loop;
struct mailbox;
struct metrics;
struct mailbox_group;

enum { MAILBOX_PAYLOAD_SIZE = 64 };

/* Runs in the owner's thread. payload is valid during the call, aligned for any type. */
typedef void mailbox_deliver_fn(void *owner, const void *payload);
/* Runs in the owner's thread: the bits signalled since the last call. */
typedef void mailbox_signals_fn(void *owner, uint32_t bits);

/* The mailboxes of one process, so that each can find the others. Created before the workers, ended
 * after them. */
MUST_CHECK int mailbox_group_create(unsigned int count, struct mailbox_group **ret);
void mailbox_group_destroy(struct mailbox_group *group); /* accepts NULL */
struct mailbox *mailbox_of(struct mailbox_group *group, unsigned int index);
unsigned int mailbox_count(const struct mailbox_group *group);

/* Called by each owner in its thread: from here on its mailbox wakes `loop`. Messages posted before
 * wait. */
void mailbox_attach(struct mailbox *mailbox, struct loop *loop, void *owner,
                    mailbox_signals_fn *on_signals);
/* The owner's, for it alone; once the mailbox is attached. */
struct metrics *mailbox_metrics(const struct mailbox *mailbox);
/* Called by each owner once all mailboxes are attached: starts the self-test of MSG_RING. */
void mailbox_self_test(struct mailbox *mailbox);
/* Called by the owner when it has nothing left to do. True: it was empty, and posting fails from
 * here on, so that no message and nothing that travels in one is lost. False: there is a message,
 * or is about to be; its wake-up comes, so the loop goes on. */
MUST_CHECK bool mailbox_close(struct mailbox *mailbox);
/* Called by the owner when its loop ends: nothing is delivered any more, posting fails. */
void mailbox_detach(struct mailbox *mailbox);

/* from: the calling worker's mailbox, NULL on any other thread. -ENOBUFS: the queue is full. */
MUST_CHECK int mailbox_post(struct mailbox *to, struct mailbox *from, mailbox_deliver_fn *deliver,
                            const void *payload, size_t size);
void mailbox_signal(struct mailbox *to, struct mailbox *from, uint32_t bits);
