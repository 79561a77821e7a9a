#include "server/binding.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "io/inherit.h"
#include "io/udp_socket.h"

static_assert(LIMIT_INHERITED <= 1 << LANE_INDEX_BITS &&
                  (int)LIMIT_UDP_LANES <= (int)LIMIT_INHERITED,
              "a socket's index fits into a lane's id");

static int allocate(struct binding *binding, const char *unix_path, unsigned int count)
{
    static _Atomic uint64_t made; /* numbers all bindings, so that later lanes get larger ids */
    uint64_t number = atomic_fetch_add(&made, 1) + 1;
    binding->fds = calloc(count, sizeof(*binding->fds));
    if (binding->is_udp)
        binding->lanes = calloc(count, sizeof(*binding->lanes));
    if (unix_path != NULL)
        binding->path = strdup(unix_path);
    if (binding->fds == NULL || (binding->is_udp && binding->lanes == NULL) ||
        (unix_path != NULL && binding->path == NULL))
        return -ENOMEM;
    for (unsigned int i = 0; i < count && binding->is_udp; i++) {
        for (unsigned int j = 0; j < LIMIT_UDP_CHANNELS; j++) {
            struct pool_waiter *waiter = &binding->lanes[i].waiters[j];
            list_init(&waiter->node);
            waiter->visitor_id = number << LANE_INDEX_BITS | i;
        }
    }
    return 0;
}

/* ---- inherited sockets ---- */

static void take_inherited(struct binding *binding, const struct binding_options *options)
{
    const struct addr wanted = binding->addr;
    struct inherited_socket taken;
    while (inherited_take(options->inherited, &wanted, binding->is_udp ? SOCK_DGRAM : SOCK_STREAM,
                          &taken)) {
        binding->addr = taken.addr; /* 0.0.0.0 may be served by a dual-stack socket of [::] */
        binding->is_listening |= taken.is_listening;
        binding->is_shared |= taken.is_shared;
        if (binding->is_udp)
            udp_socket_adopt(taken.fd, &taken.addr);
        else if (!addr_is_unix(&taken.addr))
            binding->is_foreign |= !socket_adopt(taken.fd, &taken.addr, &options->tcp);
        binding->fds[binding->count++] = taken.fd;
    }
    binding->is_inherited = true;
}

static int join_group(struct binding *binding, const struct socket_options *options)
{
    int *fd = &binding->fds[binding->count];
    int result = binding->is_udp ? udp_socket_join_group(&binding->addr, fd)
                                 : socket_join_group(&binding->addr, options, fd);
    if (result == 0 && binding->is_listening) {
        result = socket_listen(*fd);
        if (result < 0)
            (void)close(*fd);
    }
    if (result == 0)
        binding->count++;
    return result;
}

/* Workers without a listener of their own share one by a duplicate. */
static int duplicate_up_to(struct binding *binding, unsigned int count)
{
    while (binding->count < count) {
        int original = binding->fds[binding->count % binding->distinct_count];
        int fd = fcntl(original, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            return -errno;
        binding->fds[binding->count++] = fd;
    }
    return 0;
}

static int adopt(struct binding *binding, const struct binding_options *options)
{
    take_inherited(binding, options);
    int result = 0;
    /* No socket joins the group of a service manager: the manager would not know it, and the
     * connections that wait in it would be lost when this process ends. */
    while (binding->count < options->count && !binding->is_shared &&
           !addr_is_unix(&binding->addr) && result == 0)
        result = join_group(binding, &options->tcp);
    binding->distinct_count = binding->count;
    return binding->is_udp ? 0 : duplicate_up_to(binding, options->count);
}

/* ---- sockets of our own ---- */

static int bind_unix(struct binding *binding, const struct binding_options *options)
{
    int result = unix_socket_bind(options->unix_path, &options->unix_access, &binding->fds[0]);
    if (result < 0)
        return result;
    binding->count = binding->distinct_count = 1;
    return duplicate_up_to(binding, options->count);
}

static int bind_group(struct binding *binding, const struct binding_options *options)
{
    int result = 0;
    if (addr_is_unix(&binding->addr))
        return bind_unix(binding, options);
    if (options->is_guarded && !binding->is_udp)
        result = socket_guard(&binding->addr, false, &binding->guard_fd);
    if (result == 0)
        result = binding->is_udp
                     ? udp_socket_bind_group(&binding->addr, binding->fds, options->count)
                     : socket_bind_group(&binding->addr, &options->tcp, options->is_guarded,
                                         binding->fds, options->count);
    if (result == 0)
        binding->count = binding->distinct_count = options->count;
    return result;
}

/* The predecessor's guard closes when the predecessor leaves, so the successor needs its own. A
 * group that can't be joined (a service manager's) gets no guard: its sockets listen, which keeps
 * others out too. docs/decisions.md, "A guard keeps a service's address". */
static void guard_adopted(struct binding *binding, const struct binding_options *options)
{
    if (options->is_guarded && !binding->is_udp && !binding->is_shared &&
        !addr_is_unix(&binding->addr) && socket_guard(&binding->addr, true, &binding->guard_fd) < 0)
        binding->guard_fd = -1;
}

/* ---- the binding ---- */

static int fill(struct binding *binding, const struct binding_options *options)
{
    size_t inherited = inherited_count(options->inherited, &binding->addr,
                                       binding->is_udp ? SOCK_DGRAM : SOCK_STREAM);
    int result =
        allocate(binding, options->unix_path, MAX((unsigned int)inherited, options->count));
    if (result < 0)
        return result;
    if (inherited == 0) {
        result = bind_group(binding, options);
    } else {
        result = adopt(binding, options);
        if (result == 0)
            guard_adopted(binding, options);
    }
    if (result == 0 && binding->path != NULL)
        binding->file = unix_socket_file(binding->path);
    return result;
}

int binding_create(const struct binding_options *options, struct binding **ret)
{
    struct binding *binding = calloc(1, sizeof(*binding));
    if (binding == NULL)
        return -ENOMEM;
    binding->guard_fd = -1;
    binding->addr = *options->addr;
    binding->is_udp = options->is_udp;
    int result = fill(binding, options);
    if (result < 0) {
        binding_destroy(binding);
        return result;
    }
    *ret = binding;
    return 0;
}

void binding_destroy(struct binding *binding)
{
    if (binding == NULL)
        return;
    for (unsigned int i = 0; i < binding->count; i++) {
        if (binding->fds[i] >= 0)
            (void)close(binding->fds[i]);
    }
    binding_leave(binding);
    /* A service manager keeps its copy, and its file. */
    if (binding->path != NULL && !binding->is_shared)
        unix_socket_remove(binding->path);
    free(binding->path);
    free(binding->fds);
    free(binding->lanes);
    free(binding);
}

void binding_remove_file(struct binding *binding)
{
    if (binding == NULL || binding->path == NULL || binding->is_shared)
        return;
    unix_socket_remove_own(binding->path, &binding->file);
    free(binding->path);
    binding->path = NULL;
}

void binding_leave(struct binding *binding)
{
    if (binding != NULL && binding->guard_fd >= 0)
        (void)close(take_fd(&binding->guard_fd));
}
