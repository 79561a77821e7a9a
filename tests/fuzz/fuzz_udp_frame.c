/* Decodes frame after frame from the input, as net/datagram.c does. An accepted frame lies within
 * the bytes, does not depend on those behind it, and encodes to a frame that reads the same. */
#include <string.h>

#include "base/error.h"
#include "fuzz.h"
#include "proto/udp_frame.h"

static void check_again(const struct udp_frame *frame)
{
    static uint8_t again[UDP_FRAME_HEAD_MAX + 65535];
    struct udp_frame second;
    size_t len = udp_frame_encode_head(&frame->from, (uint16_t)frame->payload_len, again);
    FUZZ_CHECK(len == (frame->from.is_v6 ? 25 : 13));
    memcpy(again + len, frame->payload, frame->payload_len);
    len += frame->payload_len;
    FUZZ_CHECK(udp_frame_decode(again, len - 1, &second) == 0);
    FUZZ_CHECK(udp_frame_decode(again, len, &second) == (int)len);
    FUZZ_CHECK(udp_frame_addr_equal(&second.from, &frame->from));
    FUZZ_CHECK(second.payload_len == frame->payload_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t at = 0;
    for (;;) {
        struct udp_frame frame;
        int result = udp_frame_decode(data + at, size - at, &frame);
        if (result <= 0) {
            FUZZ_CHECK(result == 0 || result == ERR_PROTOCOL);
            return 0;
        }
        FUZZ_CHECK((size_t)result <= size - at && result <= UDP_FRAME_MAX);
        FUZZ_CHECK(frame.payload >= data + at + 13);
        FUZZ_CHECK(frame.payload + frame.payload_len == data + at + result);
        FUZZ_CHECK(udp_frame_decode(data + at, (size_t)result, &frame) == result);
        check_again(&frame);
        at += (size_t)result;
    }
}
