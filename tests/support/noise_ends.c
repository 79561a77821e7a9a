#include "noise_ends.h"

#include <stdlib.h>

#include "crypto/keys.h"

static void must(bool condition)
{
    if (!condition)
        abort();
}

void noise_ends_keys(struct noise_keys keys[2], enum noise_pattern pattern)
{
    uint8_t private_keys[2][NOISE_KEY_SIZE], public_keys[2][NOISE_KEY_SIZE];
    must(keys_init() == 0);
    for (size_t i = 0; i < 2; i++)
        keys_pair_generate(private_keys[i], public_keys[i]);
    noise_keys_init(&keys[0], pattern, private_keys[0],
                    pattern == NOISE_XX ? NULL : public_keys[1]);
    noise_keys_init(&keys[1], pattern, private_keys[1],
                    pattern == NOISE_KK ? public_keys[0] : NULL);
}

void noise_ends_connect(struct link *links[2], struct link_engine *engine,
                        enum noise_pattern pattern)
{
    struct noise_keys keys[2];
    struct noise_handshake sides[2];
    uint8_t message[NOISE_HANDSHAKE_MESSAGE_MAX], payload[NOISE_HANDSHAKE_MESSAGE_MAX];
    noise_ends_keys(keys, pattern);
    for (size_t i = 0; i < 2; i++)
        noise_handshake_init(&sides[i], &keys[i], i == 0, NULL, 0);
    for (size_t from = 0; !noise_handshake_done(&sides[0]); from = 1 - from) {
        int size =
            noise_handshake_write(&sides[from], engine->aead, NULL, 0, message, sizeof(message));
        must(size > 0);
        must(noise_handshake_read(&sides[1 - from], engine->aead, message, (size_t)size, payload) ==
             0);
    }
    for (size_t i = 0; i < 2; i++) {
        links[i] = noise_link_create(&sides[i]);
        must(links[i] != NULL);
    }
}

size_t noise_ends_frame(struct link *link, struct link_engine *engine, const void *plain,
                        size_t size, unsigned char *out)
{
    size_t length = size + NOISE_TAG_SIZE;
    out[0] = (unsigned char)length;
    out[1] = (unsigned char)(length >> 8);
    must(noise_encrypt(&noise_of(link)->send, engine->aead, plain, size,
                       out + NOISE_FRAME_HEADER) == 0);
    return NOISE_FRAME_HEADER + length;
}
