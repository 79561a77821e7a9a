#include "crypto/sha1.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/macros.h"
#include "hex.h"

static void expect_digest(const void *data, size_t size, const char *hex)
{
    uint8_t digest[SHA1_DIGEST_SIZE];
    sha1_digest(data, size, digest);
    expect_hex(digest, sizeof(digest), hex);
}

/* RFC 3174 section 7.3. */
Test(sha1, rfc)
{
    static char letters[1000000], digits[640];
    const char *text = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    memset(letters, 'a', sizeof(letters));
    for (size_t i = 0; i < sizeof(digits); i++)
        digits[i] = (char)('0' + i % 8);
    expect_digest("abc", 3, "a9993e364706816aba3e25717850c26c9cd0d89d");
    expect_digest(text, strlen(text), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    expect_digest(letters, sizeof(letters), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
    expect_digest(digits, sizeof(digits), "dea356a2cddd90c7a7ecedc5ebb563934f460452");
}

/* Computed by Python's hashlib. */
static const struct {
    size_t size;
    const char *digest;
} digests[] = {
    {0, "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
    {1, "9842926af7ca0a8cca12604f945414f07b01e13d"},
    {54, "0617d0e2db51b03d5d09c217b3fe0643ed6d152f"},
    {55, "ddf57317ef34bfee3b6df83d359098930eb278bc"},
    {56, "a0d492bb0fc889d0eca3bc137066ab6f4f74f369"},
    {63, "c55856749bef509bdfe6bfebfc7bf4e793e82132"},
    {64, "bede92be29c3874e1b54ddc77988d606fc857a8e"},
    {65, "b05a80522b053d6dc7e0a517d0e70212c7dad11f"},
    {119, "504e27376a6e0f0dba8295b85cb25dc4dfa17d23"},
    {120, "82134b02fb3f702491be9bed581eeab59334acb2"},
    {127, "34d5e582029e9b9b85b2febe31da3db7cdabaaea"},
    {128, "a09133e6730ffe899efb70204cb5646cd5dc24ee"},
    {1000, "4231a8a50a10fa9758db8ec71fdef855b751048a"},
};

Test(sha1, sizes_around_the_block)
{
    uint8_t data[1000];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(7 * i + 3);
    for (size_t i = 0; i < ARRAY_SIZE(digests); i++)
        expect_digest(data, digests[i].size, digests[i].digest);
    expect_digest(NULL, 0, digests[0].digest);
}
