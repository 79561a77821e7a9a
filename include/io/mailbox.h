/* Messages between workers. Each worker owns one mailbox. Any thread may post to it; only the owner
 * takes messages out. Two kinds:
 *
 *     message  a function and up to MAILBOX_PAYLOAD_SIZE bytes by value, in a bounded lock-free
 *              queue, first in, first out. If the queue is full, the sender has to handle it.
 *     signal   a bit that means "look again". It needs no room and can't be lost, because the
 *              receiver reads the state itself. Prefer it where the state is shared anyway.
 *
 * A sender wakes the owner only if no other sender has done so since the owner last looked. A
 * worker wakes it by MSG_RING, once a self-test at the start has seen a MSG_RING arrive. Before
 * that, from other threads, and where the test fails, an eventfd wakes it. Messages themselves
 * never live in the kernel. docs/decisions.md, "MSG_RING wakes workers, an eventfd everybody
 * else". */
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

/* The mailboxes of one process, so that each can find the others. Created before the workers and
 * destroyed after them. -errno. */
MUST_CHECK int mailbox_group_create(unsigned int count, struct mailbox_group **ret);
void mailbox_group_destroy(struct mailbox_group *group); /* accepts NULL */
struct mailbox *mailbox_of(struct mailbox_group *group, unsigned int index);
unsigned int mailbox_count(const struct mailbox_group *group);

/* Called by each owner in its thread. From here on the mailbox wakes `loop`, which first gets the
 * messages that were posted before. */
void mailbox_attach(struct mailbox *mailbox, struct loop *loop, void *owner,
                    mailbox_signals_fn *on_signals);
/* The metrics of the owner's loop. For the owner's thread alone, once the mailbox is attached. */
struct metrics *mailbox_metrics(const struct mailbox *mailbox);
/* Called by each owner once all mailboxes are attached: starts the self-test of MSG_RING. */
void mailbox_self_test(struct mailbox *mailbox);
/* Called by the owner when it has nothing left to do. True: the queue was empty, and every later
 * post fails, so no message is lost. False: a message is in the queue or is being written to it.
 * Its wake-up will come, so the loop must go on. */
MUST_CHECK bool mailbox_close(struct mailbox *mailbox);
/* Called by the owner when its loop ends: nothing is delivered any more, and posting fails. */
void mailbox_detach(struct mailbox *mailbox);

/* Copies size bytes of payload, at most MAILBOX_PAYLOAD_SIZE. from: the calling worker's own
 * mailbox; NULL on any other thread. -ENOBUFS: the queue is full. -EPIPE: the owner has closed the
 * mailbox or ended, and all that it did before happened before the return. After an error the
 * payload and what it refers to stay the caller's. */
MUST_CHECK int mailbox_post(struct mailbox *to, struct mailbox *from, mailbox_deliver_fn *deliver,
                            const void *payload, size_t size);
/* Sets signal bits. from: as for mailbox_post. */
void mailbox_signal(struct mailbox *to, struct mailbox *from, uint32_t bits);
