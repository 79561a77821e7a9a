#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "resolver_priv.h"

int resolver_create_polled(void (*thread_begins)(void), struct resolver **ret)
{
    struct resolver *resolver;
    int result = resolver_create(&resolver);
    if (result < 0)
        return result;
    resolver->thread_begins = thread_begins;
    resolver->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (resolver->event_fd < 0) {
        result = -errno;
        resolver_destroy(resolver);
        return result;
    }
    *ret = resolver;
    return 0;
}

void resolver_begin(struct resolver *resolver, const struct host_port *wanted)
{
    struct addr addr;
    if (addr_from_numeric(wanted, &addr))
        return;
    (void)pthread_mutex_lock(&resolver->lock);
    struct name *name =
        resolver_has_keeper(resolver) ? names_get(&resolver->names, wanted->host) : NULL;
    if (name != NULL && name->state == NAME_IDLE && name->ended_in_poll != resolver->polls)
        resolver_queue(name);
    (void)pthread_mutex_unlock(&resolver->lock);
}

int resolver_fd(const struct resolver *resolver)
{
    return resolver->event_fd;
}

bool resolver_poll(struct resolver *resolver)
{
    uint64_t count;
    (void)pthread_mutex_lock(&resolver->lock);
    ssize_t got = read(resolver->event_fd, &count, sizeof(count));
    (void)got; /* it fails if no look-up has ended since the last call */
    resolver->polls++;
    bool is_idle = resolver->running == 0 && list_is_empty(&resolver->queue);
    (void)pthread_mutex_unlock(&resolver->lock);
    return is_idle;
}

size_t resolver_list(struct resolver *resolver, const struct host_port *wanted, bool prefer_ipv6,
                     uint32_t *ret_look_up, struct addr ret[static LIMIT_SERVERS])
{
    (void)pthread_mutex_lock(&resolver->lock);
    const struct name *name = names_find(&resolver->names, wanted->host);
    size_t count = 0;
    if (name != NULL) {
        *ret_look_up = name->good_count;
        count = resolver_choose_family(&name->good, wanted->port, prefer_ipv6, ret, LIMIT_SERVERS);
        if (count == 0)
            count =
                resolver_choose_family(&name->good, wanted->port, !prefer_ipv6, ret, LIMIT_SERVERS);
    }
    (void)pthread_mutex_unlock(&resolver->lock);
    return count;
}

size_t resolver_find(struct resolver *resolver, const struct host_port *wanted,
                     struct addr ret[static LIMIT_ADDRESSES])
{
    if (addr_from_numeric(wanted, &ret[0]))
        return 1;
    (void)pthread_mutex_lock(&resolver->lock);
    const struct name *name = names_find(&resolver->names, wanted->host);
    size_t count = name != NULL ? resolver_choose(&name->good, wanted->port, false, ret) : 0;
    (void)pthread_mutex_unlock(&resolver->lock);
    return count;
}
