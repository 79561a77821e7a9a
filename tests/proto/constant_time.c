/* Checks that no branch and no address depends on a secret. scripts/check_constant_time runs it
 * under valgrind: secrets are marked as undefined memory, and memcheck reports every decision that
 * depends on them, in our code (blake2s.c, keys.c, noise.c, noise_symmetric.c and x25519.c of
 * src/crypto, client_fsm.c and server_fsm.c of src/proto, session.c of src/server, status_pages.c of
 * src/app) and in the libraries that it calls.
 *
 * The secrets: tokens of services and the digests made of them, the keys of sessions, the status
 * token, private keys, shared secrets, the keys of Noise's ciphers, plaintext, and the tags that
 * libsodium compares. Not here: the password for a proxy, which is only sent, and the keys of TLS,
 * which OpenSSL alone has.
 *
 * Results that may be decided upon (whether two secrets are equal, a public key, whether a tag is
 * right) are marked as defined again by the wrappers below (--wrap).
 *
 *     constant_time           a login and handshakes: must give no report
 *     constant_time branch    with a planted branch on a secret: must give one
 *     constant_time index     with a planted address that depends on a secret: must give one
 *     constant_time tag       with a planted comparison of tags that ends early: must give one */
#include <dlfcn.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/memcheck.h>

#include "base/macros.h"
#include "crypto/keys.h"
#include "crypto/noise.h"
#include "crypto/x25519.h"
#include "proto/client_fsm.h"
#include "proto/server_fsm.h"
#include "server/service.h"
#include "server/session.h"
#include "status_priv.h"

static enum { NOTHING, BRANCH, INDEX, TAG } planted;
static unsigned int tags_compared;

static void make_secret(void *bytes, size_t size)
{
    (void)VALGRIND_MAKE_MEM_UNDEFINED(bytes, size);
}

static void make_public(void *bytes, size_t size)
{
    (void)VALGRIND_MAKE_MEM_DEFINED(bytes, size);
}

static void require(bool condition, const char *what)
{
    make_public(&condition, sizeof(condition)); /* the test itself may look at a secret */
    if (condition)
        return;
    fprintf(stderr, "constant_time: %s\n", what);
    exit(1);
}

/* The bytes are still marked as secret; otherwise the checks below would check nothing. */
static void require_secret(const void *bytes, size_t size)
{
    unsigned char undefined[64];
    require(size <= sizeof(undefined) && VALGRIND_GET_VBITS(bytes, undefined, size) == 1,
            "valgrind does not say what is defined");
    for (size_t i = 0; i < size; i++)
        require(undefined[i] != 0, "a secret is not marked any more");
}

/* ---- results that are public, and planted faults ---- */

bool __real_keys_equal(const void *a, const void *b, size_t size);
bool __wrap_keys_equal(const void *a, const void *b, size_t size);
void __real_x25519_public(const uint8_t *private_key, uint8_t *ret);
void __wrap_x25519_public(const uint8_t *private_key, uint8_t *ret);
int __real_crypto_scalarmult(unsigned char *q, const unsigned char *n, const unsigned char *p);
int __wrap_crypto_scalarmult(unsigned char *q, const unsigned char *n, const unsigned char *p);
void __real_randombytes_buf(void *buf, size_t size);
void __wrap_randombytes_buf(void *buf, size_t size);
/* A naive memcmp, whose time depends on the data. */
static bool equal_at_once(const uint8_t *a, const uint8_t *b, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (a[i] != b[i])
            return false;
    }
    return true;
}

bool __wrap_keys_equal(const void *a, const void *b, size_t size)
{
    bool equal = planted == BRANCH ? equal_at_once(a, b, size) : __real_keys_equal(a, b, size);
    make_public(&equal, sizeof(equal));
    return equal;
}

void __wrap_x25519_public(const uint8_t *private_key, uint8_t *ret)
{
    static const volatile uint8_t table[256] = {1, 2, 3};
    __real_x25519_public(private_key, ret);
    if (planted == INDEX)
        ret[0] = (uint8_t)(ret[0] ^ table[private_key[0]]);
    make_public(ret, X25519_SIZE);
}

/* The result (is the secret all zero?) depends only on the peer's key, so it is public. */
int __wrap_crypto_scalarmult(unsigned char *q, const unsigned char *n, const unsigned char *p)
{
    int result = __real_crypto_scalarmult(q, n, p);
    make_public(&result, sizeof(result));
    return result;
}

void __wrap_randombytes_buf(void *buf, size_t size)
{
    __real_randombytes_buf(buf, size);
    make_secret(buf, size);
}

/* libsodium's own calls of its comparison of tags come here too: a program's symbol goes before that
 * of a shared library. Whether a tag is right is public. */
int crypto_verify_16(const unsigned char *x, const unsigned char *y)
{
    static int (*real)(const unsigned char *x, const unsigned char *y);
    if (real == NULL)
        real = (int (*)(const unsigned char *, const unsigned char *))dlsym(RTLD_NEXT,
                                                                            "crypto_verify_16");
    require(real != NULL, "libsodium has no crypto_verify_16");
    int result = planted == TAG ? (equal_at_once(x, y, AEAD_TAG_SIZE) ? 0 : -1) : real(x, y);
    make_public(&result, sizeof(result));
    tags_compared++;
    return result;
}

/* ---- the login: token, digests, Auth ---- */

enum { TOKEN_LEN = 24 };

static void server_login(const char *token, const uint8_t *auth, bool is_right)
{
    static const uint8_t nonce[MESSAGE_DIGEST_SIZE] = {7};
    uint8_t hello[MESSAGE_HELLO_SIZE], digest[MESSAGE_DIGEST_SIZE] = {1};
    struct server_fsm fsm;
    struct server_action action;
    server_fsm_init(&fsm);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    server_fsm_received(&fsm, hello, sizeof(hello), &action);
    require(action.type == SERVER_ACTION_FIND_SERVICE, "no look for a service");
    server_fsm_service_found(&fsm, token, TOKEN_LEN, nonce, &action);
    require_secret(fsm.expected, sizeof(fsm.expected));
    server_fsm_received(&fsm, auth, MESSAGE_AUTH_SIZE, &action);
    require(action.type == (is_right ? SERVER_ACTION_LOGIN : SERVER_ACTION_SEND_AND_CLOSE),
            "the wrong answer to an Auth");
    if (is_right)
        server_fsm_registered(&fsm, &action);
    server_fsm_finish(&fsm);
}

/* Returns the Auth for a server with the nonce above. It is a secret here, also for plain TCP. */
static void client_login(const char *token, uint8_t ret_auth[static MESSAGE_AUTH_SIZE])
{
    static const uint8_t nonce[MESSAGE_DIGEST_SIZE] = {7};
    uint8_t hello[MESSAGE_HELLO_SIZE], ack[MESSAGE_ACK_SIZE];
    struct client_fsm fsm;
    struct client_action action;
    client_fsm_init(&fsm);
    client_fsm_start(&fsm, "service", strlen("service"), token, TOKEN_LEN, &action);
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    client_fsm_received(&fsm, hello, sizeof(hello), &action);
    require(action.type == CLIENT_ACTION_SEND && action.len == MESSAGE_AUTH_SIZE, "no Auth");
    memcpy(ret_auth, action.bytes, MESSAGE_AUTH_SIZE);
    require_secret(ret_auth, MESSAGE_AUTH_SIZE);
    message_ack_encode(MESSAGE_ACK_OK, ack);
    client_fsm_received(&fsm, ack, sizeof(ack), &action);
    require(action.type == CLIENT_ACTION_UP, "not logged in");
    client_fsm_finish(&fsm);
}

static void check_login(void)
{
    char token[TOKEN_LEN];
    uint8_t auth[MESSAGE_AUTH_SIZE];
    keys_random(token, sizeof(token));
    client_login(token, auth);
    server_login(token, auth, true);
    auth[sizeof(auth) - 1] ^= 1;
    server_login(token, auth, false);
    keys_wipe(token, sizeof(token));
}

/* ---- Noise: private keys and shared secrets ---- */

struct noise_side {
    struct noise_keys keys;
    struct noise_handshake handshake;
    struct noise_cipher send, receive;
};

static void pass(struct noise_side *from, struct noise_side *to, struct aead *aead)
{
    uint8_t message[NOISE_HANDSHAKE_MESSAGE_MAX], payload[NOISE_HANDSHAKE_MESSAGE_MAX];
    int size = noise_handshake_write(&from->handshake, aead, NULL, 0, message, sizeof(message));
    require(size > 0, "a handshake message is not written");
    make_public(message, (size_t)size); /* sent over the wire, so public */
    require(noise_handshake_read(&to->handshake, aead, message, (size_t)size, payload) == 0,
            "a handshake message is not read");
}

static void talk(struct noise_side *from, struct noise_side *to, struct aead *aead)
{
    uint8_t plain[100], sealed[sizeof(plain) + NOISE_TAG_SIZE], opened[sizeof(plain)];
    keys_random(plain, sizeof(plain));
    require(noise_encrypt(&from->send, aead, plain, sizeof(plain), sealed) == 0, "not sealed");
    make_public(sealed, sizeof(sealed));
    require(noise_decrypt(&to->receive, aead, sealed, sizeof(sealed), opened) == 0, "not opened");
    require(__real_keys_equal(plain, opened, sizeof(plain)), "opened as something else");
    sealed[0] ^= 1;
    require(noise_decrypt(&to->receive, aead, sealed, sizeof(sealed), opened) < 0,
            "a wrong tag is taken");
}

static void check_noise(enum noise_pattern pattern, struct aead *aead)
{
    struct noise_side sides[2];
    uint8_t private_keys[2][NOISE_KEY_SIZE], public_keys[2][NOISE_KEY_SIZE];
    for (size_t i = 0; i < 2; i++)
        keys_pair_generate(private_keys[i], public_keys[i]);
    for (size_t i = 0; i < 2; i++) {
        /* With XX the client compares the server's key with the configured one. */
        bool knows = i == 0 || pattern == NOISE_KK;
        noise_keys_init(&sides[i].keys, pattern, private_keys[i],
                        knows ? public_keys[1 - i] : NULL);
        noise_handshake_init(&sides[i].handshake, &sides[i].keys, i == 0, NULL, 0);
    }
    while (!noise_handshake_done(&sides[0].handshake)) {
        size_t from = noise_handshake_is_ours(&sides[0].handshake) ? 0 : 1;
        pass(&sides[from], &sides[1 - from], aead);
    }
    for (size_t i = 0; i < 2; i++) {
        noise_handshake_split(&sides[i].handshake, &sides[i].send, &sides[i].receive, NULL);
        require_secret(sides[i].send.key, sizeof(sides[i].send.key));
        require_secret(sides[i].receive.key, sizeof(sides[i].receive.key));
    }
    talk(&sides[0], &sides[1], aead);
    talk(&sides[1], &sides[0], aead);
    for (size_t i = 0; i < 2; i++)
        noise_keys_wipe(&sides[i].keys);
}

/* ---- session keys, the status token ---- */

static void check_session(void)
{
    static struct session_table table;
    static struct session session;
    static struct service service;
    struct session_found found;
    uint8_t presented[KEYS_DIGEST_SIZE];
    session.service = &service;
    keys_random(session.key, sizeof(session.key));
    memcpy(presented, session.key, sizeof(presented));
    make_public(presented, sizeof(presented)); /* what a peer has sent */
    session_table_init(&table, NULL);
    list_push_back(&table.buckets[keys_hash(presented, sizeof(presented)) % SESSION_BUCKETS],
                   &session.node);
    require_secret(session.key, sizeof(session.key));
    require(session_table_find(&table, presented, &found), "a session is not found by its key");
    session.key[sizeof(session.key) - 1] ^= 1; /* as another one in the same bucket */
    require(!session_table_find(&table, presented, &found), "a session is found by another key");
    list_remove(&session.node);
    session_table_finish(&table);
}

void service_base_use(struct service_base *base)
{
    (void)base; /* counting users has to do with no secret */
}

/* In place of what follows once a request has been allowed: nothing here may get so far. */
void not_linked(void);
void not_linked(void)
{
    require(false, "a request was answered that must not be");
}

const unsigned char status_page[1];
const size_t status_page_size = 1;
const char status_page_headers[1];

static void check_status_token(void)
{
    static struct status status = {.has_token = true};
    char token[TOKEN_LEN];
    keys_random(token, sizeof(token));
    keys_service_digest(token, sizeof(token), status.token_digest);
    require_secret(status.token_digest, sizeof(status.token_digest));
    for (int wrong = 0; wrong < 2; wrong++) {
        struct http_request request = {.path = {.at = "/none", .len = strlen("/none")},
                                       .bearer = {.at = token, .len = sizeof(token)}};
        struct status_answer answer;
        token[0] = (char)(token[0] ^ wrong);
        status_answer(&status, &request, &answer);
        require(answer.status == (wrong ? HTTP_UNAUTHORIZED : HTTP_NOT_FOUND),
                "the wrong answer to a status token");
    }
}

static void check_key_text(void)
{
    uint8_t private_key[KEYS_X25519_SIZE];
    char text[KEYS_TEXT_SIZE];
    keys_random(private_key, sizeof(private_key));
    keys_to_text(private_key, text);
    keys_wipe(text, sizeof(text));
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    planted = strcmp(what, "branch") == 0  ? BRANCH
              : strcmp(what, "index") == 0 ? INDEX
              : strcmp(what, "tag") == 0   ? TAG
                                           : NOTHING;
    struct aead *aead;
    if (RUNNING_ON_VALGRIND == 0) {
        fprintf(stderr, "constant_time: to be run by scripts/check_constant_time\n");
        return 1;
    }
    require(keys_init() == 0 && aead_create_with(AEAD_SODIUM, &aead) == 0, "cannot begin");
    if (planted == NOTHING || planted == BRANCH)
        check_login();
    if (planted != BRANCH)
        check_noise(NOISE_NK, aead);
    if (planted == NOTHING) {
        check_noise(NOISE_XX, aead);
        check_noise(NOISE_KK, aead);
        check_key_text();
        check_session();
        check_status_token();
        require(tags_compared > 0, "libsodium compares tags without crypto_verify_16");
    }
    aead_destroy(aead);
    return 0;
}
