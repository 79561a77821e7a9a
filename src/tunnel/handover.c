#include "tunnel/handover.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- a client's logins ---- */

static const char login_word[] = "login";

enum { LOGIN_WORD = sizeof(login_word) - 1, LOGIN_SIZE = LOGIN_WORD + sizeof(uint64_t) };

/* So that the channel is not closed while a worker uses it. A process has one handover. */
static pthread_mutex_t channel_lock = PTHREAD_MUTEX_INITIALIZER;

void handover_set_channel(struct handover *handover, int channel)
{
    (void)pthread_mutex_lock(&channel_lock);
    handover->channel = channel;
    (void)pthread_mutex_unlock(&channel_lock);
}

void handover_tell_login(const struct handover *handover, uint64_t login)
{
    uint8_t packet[LOGIN_SIZE];
    memcpy(packet, login_word, LOGIN_WORD);
    memcpy(packet + LOGIN_WORD, &login, sizeof(login));
    (void)pthread_mutex_lock(&channel_lock);
    if (handover->channel != 0) {
        ssize_t sent = send(handover->channel, packet, sizeof(packet), MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)sent; /* not vital */
    }
    (void)pthread_mutex_unlock(&channel_lock);
}

bool handover_hear_login(const void *packet, size_t size, uint64_t *ret)
{
    if (size != LOGIN_SIZE || memcmp(packet, login_word, LOGIN_WORD) != 0)
        return false;
    memcpy(ret, (const uint8_t *)packet + LOGIN_WORD, sizeof(*ret));
    return true;
}

/* ---- the sockets ---- */

int handover_sockets_add(struct handover_sockets *sockets, int fd, const char *kind,
                         const char *name)
{
    if (sockets->count == sockets->capacity) {
        size_t capacity = sockets->capacity * 2 + 16;
        int *fds = realloc(sockets->fds, capacity * sizeof(*fds));
        if (fds != NULL)
            sockets->fds = fds;
        char **names = realloc(sockets->names, capacity * sizeof(*names));
        if (names != NULL)
            sockets->names = names;
        if (fds == NULL || names == NULL)
            return -ENOMEM;
        sockets->capacity = capacity;
    }
    char *text;
    if (asprintf(&text, "%s%s%s", kind, name != NULL ? "-" : "", name != NULL ? name : "") < 0)
        return -ENOMEM;
    sockets->fds[sockets->count] = fd;
    sockets->names[sockets->count++] = text;
    return 0;
}

void handover_sockets_finish(struct handover_sockets *sockets)
{
    for (size_t i = 0; i < sockets->count; i++)
        free(sockets->names[i]);
    free(sockets->names);
    free(sockets->fds);
    *sockets = (struct handover_sockets){0};
}
