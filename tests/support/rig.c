#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "testing.h"

enum { STEP_MAX = 65536, QUICK_READS = 1000 };

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
        .bad_at = SIZE_MAX,
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

/* Opens received frames. A damaged one means corrupt data. */
static void peer_open(struct peer *peer, const unsigned char *bytes, size_t size)
{
    ssize_t opened = link_open(peer->link, peer->engine, bytes, size);
    if (opened < 0)
        peer->corrupt = true;
    else
        peer_check(peer, peer->engine->plain, (size_t)opened);
    peer->got_fin = peer->link->has_ended;
    if (peer->got_fin && peer->drops_at_end && !peer->fin_sent)
        peer->has_dropped = true;
}

static void peer_read(struct peer *peer, size_t max)
{
    unsigned char bytes[STEP_MAX];
    if (peer->got_fin || peer->got_reset)
        return;
    ssize_t got = recv(peer->fd, bytes, max, MSG_DONTWAIT);
    if (got > 0 && peer->link != NULL)
        peer_open(peer, bytes, (size_t)got);
    else if (got > 0)
        peer_check(peer, bytes, (size_t)got);
    else if (got == 0 && peer->link != NULL && peer->link->ends_in_band)
        peer->got_reset = true; /* a truncation */
    else if (got == 0)
        peer->got_fin = true;
    else
        note_error(peer, errno);
    if (peer->got_fin && peer->link != NULL && link_fin(peer->link) != ERR_EOF)
        peer->corrupt = true;
}

void peer_encrypt(struct peer *peer, struct link *link, struct link_engine *engine)
{
    peer->link = link;
    peer->engine = engine;
    peer->wire = malloc(LINK_BATCH_CODED);
    if (peer->wire == NULL)
        abort();
}

void peer_take(struct peer *peer, unsigned char *out, size_t size)
{
    for (size_t i = 0; i < size; i++)
        out[i] = pattern_byte(peer->pattern, peer->sent + i);
    peer->sent += size;
}

static size_t seal_noise(struct peer *peer, const unsigned char *plain, size_t size)
{
    size_t length = size + NOISE_TAG_SIZE;
    peer->wire[0] = (unsigned char)length;
    peer->wire[1] = (unsigned char)(length >> 8);
    if (noise_encrypt(&noise_of(peer->link)->send, peer->engine->aead, plain, size,
                      peer->wire + NOISE_FRAME_HEADER) < 0)
        abort();
    return NOISE_FRAME_HEADER + length;
}

void peer_seal(struct peer *peer, size_t size)
{
    unsigned char plain[NOISE_PAYLOAD_MAX];
    size_t before = peer->sent, length = size + NOISE_TAG_SIZE;
    peer_take(peer, plain, size);
    peer->wire_size = peer->seal == NULL
                          ? seal_noise(peer, plain, size)
                          : peer->seal(peer->link, peer->engine, plain, size, peer->wire);
    peer->wire_sent = 0;
    if (peer->bad_at >= before && peer->bad_at < peer->sent) {
        peer->sent_before_bad = before;
        peer->wire[peer->wire_size - 1 - peer->bad_at % length] ^= 1;
    }
    if (peer->sent == peer->total)
        peer->wire_size -= peer->cut < peer->wire_size ? peer->cut : peer->wire_size - 1;
}

static size_t send_some(struct peer *peer, const unsigned char *bytes, size_t size)
{
    ssize_t sent = send(peer->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        note_error(peer, errno);
    return sent < 0 ? 0 : (size_t)sent;
}

static void write_sealed(struct peer *peer, size_t size)
{
    if (peer->wire_sent == peer->wire_size && size > 0)
        peer_seal(peer, size < NOISE_PAYLOAD_MAX ? size : NOISE_PAYLOAD_MAX);
    if (peer->wire_sent < peer->wire_size)
        peer->wire_sent +=
            send_some(peer, peer->wire + peer->wire_sent, peer->wire_size - peer->wire_sent);
}

static void write_plain(struct peer *peer, size_t size)
{
    unsigned char bytes[STEP_MAX];
    size_t before = peer->sent;
    if (size == 0)
        return;
    peer_take(peer, bytes, size);
    peer->sent = before + send_some(peer, bytes, size);
}

/* All is sent. Behind an end that is a message, a FIN may come or not. */
static void peer_end(struct peer *peer)
{
    bool is_message =
        peer->link != NULL && peer->link->ends_in_band && peer->cut == 0 && !peer->omits_end;
    if (is_message && !peer->link->end_is_said) {
        ssize_t size = link_end(peer->link, peer->wire);
        if (size <= 0)
            abort();
        peer->wire_size = (size_t)size;
        peer->wire_sent = 0;
        return;
    }
    if (!is_message || peer->total % 2 == 0)
        (void)shutdown(peer->fd, SHUT_WR);
    peer->fin_sent = true;
}

static void peer_write(struct peer *peer, size_t max)
{
    if (peer->fin_sent || peer->got_reset)
        return;
    size_t until = peer->reset_at < peer->total ? peer->reset_at : peer->total;
    size_t size = until - peer->sent < max ? until - peer->sent : max;
    if (peer->link != NULL)
        write_sealed(peer, size);
    else
        write_plain(peer, size);
    if (peer->sent >= peer->reset_at) {
        tcp_abort_on_close(peer->fd);
        peer_close(peer);
        peer->has_reset = true;
        return;
    }
    bool is_out = peer->wire_sent == peer->wire_size;
    if (peer->sent == peer->total && is_out && peer->reset_at == SIZE_MAX)
        peer_end(peer);
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
    for (int i = 0; i < 10000 && peer->fd >= 0 && !peer->got_fin && !peer->got_reset; i++) {
        if (i > QUICK_READS)
            (void)usleep(200); /* the window of a small socket opens by the real clock */
        peer_read(peer, STEP_MAX);
    }
}

void peer_close(struct peer *peer)
{
    if (peer->fd >= 0)
        (void)close(peer->fd);
    peer->fd = -1;
    link_free(peer->link);
    peer->link = NULL;
    free(peer->wire);
    peer->wire = NULL;
    peer->wire_size = peer->wire_sent = 0;
}
