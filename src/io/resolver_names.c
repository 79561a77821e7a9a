#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "resolver_priv.h"

void names_init(struct names *names, struct resolver *resolver)
{
    names->resolver = resolver;
    names->count = 0;
    list_init(&names->recent);
    for (size_t i = 0; i < NAME_BUCKETS; i++)
        list_init(&names->buckets[i]);
}

static struct list *resolver_name_bucket(struct names *names, const char *host)
{
    /* FNV-1a has no key. It needs none: names come from the configuration, never from a peer. */
    uint32_t hash = 2166136261u;
    for (; *host != '\0'; host++)
        hash = (hash ^ (unsigned char)tolower((unsigned char)*host)) * 16777619u;
    return &names->buckets[hash % NAME_BUCKETS];
}

struct name *names_find(struct names *names, const char *host)
{
    list_for_each (node, resolver_name_bucket(names, host)) {
        struct name *name = container_of(node, struct name, bucket_node);
        if (strcasecmp(name->host, host) == 0)
            return name;
    }
    return NULL;
}

void names_remove(struct names *names, struct name *name)
{
    list_remove(&name->bucket_node);
    list_remove(&name->recent_node);
    list_remove(&name->queue_node);
    list_remove(&name->impatient_node);
    names->count--;
    free(name);
}

static bool resolver_make_room(struct names *names)
{
    if (names->count < LIMIT_RESOLVER_NAMES)
        return true;
    list_for_each (node, &names->recent) {
        struct name *name = container_of(node, struct name, recent_node);
        if (name->state == NAME_IDLE) {
            names_remove(names, name);
            return true;
        }
    }
    return false;
}

static struct name *resolver_name_add(struct names *names, const char *host)
{
    struct name *name = resolver_make_room(names) ? calloc(1, sizeof(*name)) : NULL;
    if (name == NULL)
        return NULL;
    memcpy(name->host, host, strlen(host) + 1);
    name->resolver = names->resolver;
    list_init(&name->recent_node);
    list_init(&name->queue_node);
    list_init(&name->impatient_node);
    list_init(&name->askers);
    list_push_back(resolver_name_bucket(names, host), &name->bucket_node);
    names->count++;
    return name;
}

struct name *names_get(struct names *names, const char *host)
{
    struct name *name = names_find(names, host);
    if (name == NULL)
        name = resolver_name_add(names, host);
    if (name == NULL)
        return NULL;
    list_remove(&name->recent_node);
    list_push_back(&names->recent, &name->recent_node);
    return name;
}
