#include "noise_peer.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/socket.h"

enum { MESSAGE_SIZE = 48 /* of both messages of NK, without a payload */ };

static bool tell_message(struct noise_peer *peer, struct noise_handshake *handshake)
{
    uint8_t message[NOISE_FRAME_HEADER + MESSAGE_SIZE] = {MESSAGE_SIZE};
    ssize_t size = noise_handshake_write(handshake, peer->engine->aead, NULL, 0,
                                         message + NOISE_FRAME_HEADER, MESSAGE_SIZE);
    say(peer->fd, message, sizeof(message));
    return size == MESSAGE_SIZE;
}

static bool hear_message(struct noise_peer *peer, struct noise_handshake *handshake)
{
    uint8_t message[NOISE_FRAME_HEADER + MESSAGE_SIZE], payload[MESSAGE_SIZE];
    int end;
    side_settle(peer->side, 6);
    if (side_read(peer->side, peer->fd, message, sizeof(message), &end) != sizeof(message))
        return false;
    cr_assert(message[0] == MESSAGE_SIZE && message[1] == 0);
    return noise_handshake_read(handshake, peer->engine->aead, message + NOISE_FRAME_HEADER,
                                MESSAGE_SIZE, payload) == 0;
}

void noise_peer_init(struct noise_peer *peer, struct side *side, struct link_engine *engine, int fd,
                     const struct noise_keys *keys, bool initiator)
{
    struct noise_handshake handshake;
    *peer = (struct noise_peer){.fd = fd, .side = side, .engine = engine};
    cr_assert_geq(fd, 0);
    socket_set_nodelay(fd, true); /* Nagle would wait for the real clock */
    noise_handshake_init(&handshake, keys, initiator, NULL, 0);
    bool done = initiator ? tell_message(peer, &handshake) && hear_message(peer, &handshake)
                          : hear_message(peer, &handshake) && tell_message(peer, &handshake);
    if (!done) {
        noise_handshake_wipe(&handshake);
        return;
    }
    peer->link = noise_link_create(&handshake);
    cr_assert_not_null(peer->link);
}

void noise_peer_hang_up(struct noise_peer *peer)
{
    (void)close(peer->fd);
    link_free(peer->link);
}

void noise_peer_tell(struct noise_peer *peer, const void *bytes, size_t size)
{
    unsigned char frame[NOISE_PEER_HELD];
    say(peer->fd, frame, noise_ends_frame(peer->link, peer->engine, bytes, size, frame));
}

bool noise_peer_hear(struct noise_peer *peer, void *out, size_t size)
{
    unsigned char wire[NOISE_PEER_HELD];
    for (int turn = 0; turn < 200 && peer->held_size < size; turn++) {
        side_settle(peer->side, 1);
        ssize_t got = recv(peer->fd, wire, sizeof(wire), MSG_DONTWAIT);
        if (got <= 0)
            continue;
        ssize_t opened = link_open(peer->link, peer->engine, wire, (size_t)got);
        cr_assert(opened >= 0 && peer->held_size + (size_t)opened <= NOISE_PEER_HELD);
        memcpy(peer->held + peer->held_size, peer->engine->plain, (size_t)opened);
        peer->held_size += (size_t)opened;
    }
    if (peer->held_size < size)
        return false;
    memcpy(out, peer->held, size);
    peer->held_size -= size;
    memmove(peer->held, peer->held + size, peer->held_size);
    return true;
}
