#include "rig.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "testing.h"

enum { STEP_MAX = 65536 };

static unsigned char pattern_byte(uint8_t pattern, size_t position)
{
    return (unsigned char)(position * 31 + (position >> 8) + pattern);
}

void peer_init(struct peer *peer, int fd, uint8_t pattern, uint8_t expected, size_t total)
{
    *peer = (struct peer){
        .fd = fd,
        .pattern = pattern,
        .expected = expected,
        .total = total,
        .reset_at = SIZE_MAX,
        .chunk_max = STEP_MAX,
    };
}

static void note_error(struct peer *peer, int error)
{
    if (error != EAGAIN && error != EINTR)
        peer->got_reset = true;
}

static void peer_check(struct peer *peer, const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        size_t position = peer->got + i;
        if (position >= peer->skip &&
            bytes[i] != pattern_byte(peer->expected, position - peer->skip))
            peer->corrupt = true;
    }
    peer->got += size;
}

static void peer_read(struct peer *peer, size_t max)
{
    unsigned char bytes[STEP_MAX];
    if (peer->got_fin || peer->got_reset)
        return;
    ssize_t got = recv(peer->fd, bytes, max, MSG_DONTWAIT);
    if (got > 0)
        peer_check(peer, bytes, (size_t)got);
    else if (got == 0)
        peer->got_fin = true;
    else
        note_error(peer, errno);
}

static void peer_write(struct peer *peer, size_t max)
{
    unsigned char bytes[STEP_MAX];
    if (peer->fin_sent || peer->got_reset)
        return;
    size_t until = peer->reset_at < peer->total ? peer->reset_at : peer->total;
    size_t size = until - peer->sent < max ? until - peer->sent : max;
    if (size > 0) {
        for (size_t i = 0; i < size; i++)
            bytes[i] = pattern_byte(peer->pattern, peer->sent + i);
        ssize_t sent = send(peer->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            note_error(peer, errno);
        else
            peer->sent += (size_t)sent;
    }
    if (peer->sent >= peer->reset_at) {
        tcp_abort_on_close(peer->fd);
        peer_close(peer);
        peer->has_reset = true;
        return;
    }
    if (peer->sent == peer->total && peer->reset_at == SIZE_MAX) {
        (void)shutdown(peer->fd, SHUT_WR);
        peer->fin_sent = true;
    }
}

void peer_step(struct peer *peer, uint64_t random)
{
    if (peer->fd < 0)
        return;
    if (peer->stalled_turns > 0)
        peer->stalled_turns--;
    else
        peer_read(peer, 1 + random % peer->chunk_max);
    if (peer->fd >= 0)
        peer_write(peer, 1 + (random >> 32) % peer->chunk_max);
}

bool peer_is_over(const struct peer *peer)
{
    return peer->has_reset || peer->got_reset || (peer->got_fin && peer->fin_sent);
}

void peer_drain(struct peer *peer)
{
    for (int i = 0; i < 10000 && peer->fd >= 0 && !peer->got_fin && !peer->got_reset; i++)
        peer_read(peer, STEP_MAX);
}

void peer_close(struct peer *peer)
{
    if (peer->fd >= 0)
        (void)close(peer->fd);
    peer->fd = -1;
}
