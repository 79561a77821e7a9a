#include "crypto/blake2s.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/macros.h"
#include "hex.h"

enum { DATA_MAX = 1024 };

/* Input of the expected values below, which Python's hashlib and hmac have computed. */
static void fill_data(uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(7 * i + 3);
}

static void fill_key(uint8_t *key, size_t len)
{
    for (size_t i = 0; i < len; i++)
        key[i] = (uint8_t)(11 * i + 5);
}

static void mac(size_t out_size, const uint8_t *key, size_t key_len, const uint8_t *data,
                size_t len, uint8_t *out)
{
    struct blake2s state;
    blake2s_init(&state, out_size, key, key_len);
    blake2s_update(&state, data, len);
    blake2s_final(&state, out);
}

/* RFC 7693, appendix B. */
Test(blake2s, abc)
{
    uint8_t hash[BLAKE2S_HASH_SIZE];
    blake2s_hash("abc", 3, NULL, 0, hash);
    expect_hex(hash, sizeof(hash),
               "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
}

/* RFC 7693, appendix E: a deterministic sequence (Fibonacci generator). */
static void self_test_sequence(uint8_t *out, size_t len, uint32_t seed)
{
    uint32_t a = 0xdead4bad * seed, b = 1;
    for (size_t i = 0; i < len; i++) {
        uint32_t t = a + b;
        a = b;
        b = t;
        out[i] = (uint8_t)(t >> 24);
    }
}

/* RFC 7693, appendix E: the hash over all hashes, plain and keyed, of many lengths. */
Test(blake2s, rfc_self_test)
{
    static const size_t out_sizes[] = {16, 20, 28, 32};
    static const size_t in_sizes[] = {0, 3, 64, 65, 255, 1024};
    uint8_t in[DATA_MAX], hash[BLAKE2S_HASH_SIZE], key[BLAKE2S_HASH_SIZE];
    struct blake2s all;
    blake2s_init(&all, BLAKE2S_HASH_SIZE, NULL, 0);
    for (size_t i = 0; i < ARRAY_SIZE(out_sizes); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(in_sizes); j++) {
            self_test_sequence(in, in_sizes[j], (uint32_t)in_sizes[j]);
            mac(out_sizes[i], NULL, 0, in, in_sizes[j], hash);
            blake2s_update(&all, hash, out_sizes[i]);

            self_test_sequence(key, out_sizes[i], (uint32_t)out_sizes[i]);
            mac(out_sizes[i], key, out_sizes[i], in, in_sizes[j], hash);
            blake2s_update(&all, hash, out_sizes[i]);
        }
    }
    blake2s_final(&all, hash);
    expect_hex(hash, sizeof(hash),
               "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe");
}

static const struct {
    size_t len;
    const char *hash;
} hashes[] = {
    {0, "69217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9"},
    {1, "a28ac19d6bcbe2cd1d7de183485768d598e996b07889b9b11f418cb1b4a4fb0d"},
    {55, "691697264a9ff7f6f5605335fc509f137845246ce7169d30fbf71574102ffb63"},
    {63, "de27df0e375d83c49f1af9ca8270f9f2fe7b70bf800fc01672db0e9746021ebf"},
    {64, "5377e4ff957bda4d4535f4879876b71a61056c4cec31e78397c66ec47a86a130"},
    {65, "19b1b26fba093f4a670d8913e1b71cbb2916dfa701018cc6b05785c966593374"},
    {127, "6846f99493436241d0a6f289c9a911b1d0f4860db8f2b5df5295ffd37d03a3c4"},
    {128, "83470c75afa23d90cd7659906e4b47daa278131fbb225241dd37a40fd5355ac7"},
    {129, "26fd8892ab0a5f12d4acbff1efd7dcd92b99e2d377f888f07e3cb81b232b11cf"},
    {1000, "02a016193469710efadf8fb005ca19b509331cb847df5598cc0794bded669681"},
};

Test(blake2s, lengths_around_the_block)
{
    uint8_t data[DATA_MAX], hash[BLAKE2S_HASH_SIZE];
    fill_data(data, sizeof(data));
    for (size_t i = 0; i < ARRAY_SIZE(hashes); i++) {
        mac(BLAKE2S_HASH_SIZE, NULL, 0, data, hashes[i].len, hash);
        expect_hex(hash, sizeof(hash), hashes[i].hash);
    }
}

static const struct {
    size_t out_size, key_len;
    const char *hash;
} keyed[] = {
    {1, 0, "f1"},
    {16, 0, "fd10c53069c3e878cf20d62c248ce374"},
    {31, 7, "d5f00a155c78df731002ead6430a4e224b1106641c0f26f6dd502667003168"},
    {32, 1, "1b6045ca20dc8c2cc6626077924fb68093a237d36ecad5074454601d544d9d2e"},
    {32, 32, "f7f8d7eeefd40657606bc0feba641980a03bad951cce958365227b5b8fb37bd9"},
};

Test(blake2s, keys_and_sizes)
{
    uint8_t data[100], key[BLAKE2S_KEY_MAX], hash[BLAKE2S_HASH_SIZE];
    fill_data(data, sizeof(data));
    fill_key(key, sizeof(key));
    for (size_t i = 0; i < ARRAY_SIZE(keyed); i++) {
        mac(keyed[i].out_size, key, keyed[i].key_len, data, sizeof(data), hash);
        expect_hex(hash, keyed[i].out_size, keyed[i].hash);
    }
}

Test(blake2s, pieces_make_the_same_hash)
{
    uint8_t data[200], whole[BLAKE2S_HASH_SIZE], pieces[BLAKE2S_HASH_SIZE];
    fill_data(data, sizeof(data));
    mac(BLAKE2S_HASH_SIZE, NULL, 0, data, sizeof(data), whole);
    for (size_t piece = 1; piece < sizeof(data); piece++) {
        struct blake2s state;
        blake2s_init(&state, BLAKE2S_HASH_SIZE, NULL, 0);
        for (size_t at = 0; at < sizeof(data); at += piece)
            blake2s_update(&state, data + at, MIN(piece, sizeof(data) - at));
        blake2s_update(&state, NULL, 0);
        blake2s_final(&state, pieces);
        cr_expect_arr_eq(pieces, whole, sizeof(whole), "pieces of %zu", piece);
    }
    for (size_t cut = 0; cut <= sizeof(data); cut++) {
        blake2s_hash(data, cut, data + cut, sizeof(data) - cut, pieces);
        cr_expect_arr_eq(pieces, whole, sizeof(whole), "cut at %zu", cut);
    }
}

Test(blake2s, hash_over_its_own_input)
{
    uint8_t expected[BLAKE2S_HASH_SIZE], hash[BLAKE2S_HASH_SIZE] = "a chaining value";
    blake2s_hash(hash, sizeof(hash), "data", 4, expected);
    blake2s_hash(hash, sizeof(hash), "data", 4, hash);
    cr_expect_arr_eq(hash, expected, sizeof(hash));
}

static const struct {
    size_t key_len, len;
    const char *hash;
} hmacs[] = {
    {0, 0, "eaf4bb25938f4d20e72656bbbc7a9bf63c0c18537333c35bdb67db1402661acd"},
    {0, 64, "4f00cf52520b3a74d2d64bc652b99f4a0be57814e3ba45b5223a89a48792352e"},
    {1, 1, "d94847aa37fb4e8e42afe12b8e4ac8d0c95bac97ccb91e8a551be13f51d1bfc7"},
    {32, 0, "81a129f3518db33739c06ca483decfdf3b0ea53c521eed85ffb0a564af0085a6"},
    {32, 1, "459fac947e499d4c34bd7524c5564b2061b89c0a4354e1a447e63a698f8b1d05"},
    {32, 32, "9de417a70f77f14bd8c4b3f8dff66ea8875dc66b219aacbe948f540b1b6b2d26"},
    {32, 33, "4aa7ef303760ffd4283397ceafba4e1da4fe905f5c209ab40fb6cf4c58442caa"},
    {32, 63, "2ee5a16c849577c75a0a04f55ce1007841d14c8bee48239fba2389bcb21e6c8d"},
    {32, 64, "226c362ee950be4a7ab39ddaa47ce7f617527d03d5e3ead6f4ce8128fb664732"},
    {32, 65, "1d915e9c30e83d44b3d2e8cd9c47b8ead97fe5e84d8329ff7ac68caaa3308ec9"},
    {63, 128, "e7cd3fc4058ffcf1a936c653f69e8bd2ae883082b195e38b4e8b656b64a76f28"},
    {64, 0, "09c69a086ca4356cd6017e5889e7df415b129fee590e70b53ae9978b45860645"},
    {64, 129, "7edded9b39a04c7d45fba8b4eb11192917fe26fa03ef0523790322c57ff196e4"},
    {64, 1000, "5463e6d4540a6d1fbd7220b72288f4ab9d9d36d5e1abe15842f4b088cdec6df3"},
};

Test(blake2s, hmac)
{
    uint8_t data[DATA_MAX], key[BLAKE2S_BLOCK_SIZE], hash[BLAKE2S_HASH_SIZE];
    fill_data(data, sizeof(data));
    fill_key(key, sizeof(key));
    for (size_t i = 0; i < ARRAY_SIZE(hmacs); i++) {
        blake2s_hmac(key, hmacs[i].key_len, data, hmacs[i].len, hash);
        expect_hex(hash, sizeof(hash), hmacs[i].hash);
    }
}
