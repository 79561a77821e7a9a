/* The server's state machine. The input is a choice byte and what the peer sends. The choice
 * decides whether the service exists, and whether the right Auth replaces the input's bytes,
 * because a fuzzer cannot guess it. */
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "fuzz.h"
#include "proto/server_fsm.h"

enum { SERVICE_EXISTS = 1, AUTH_IS_RIGHT = 2, FINISH_EARLY = 4 };

static const char token[] = "token";

struct run {
    struct server_fsm fsm;
    struct server_action action;
    uint8_t nonce[MESSAGE_DIGEST_SIZE];
    uint8_t right[MESSAGE_AUTH_SIZE];
    uint8_t choice;
    bool over;
};

static bool is_zero(const uint8_t *bytes, size_t len)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum |= bytes[i];
    return sum == 0;
}

static void check_invariants(const struct run *run)
{
    const struct server_fsm *fsm = &run->fsm;
    FUZZ_CHECK(fsm->state < SERVER_FSM_STATE_COUNT);
    FUZZ_CHECK(run->action.len <= sizeof(run->action.bytes));
    /* Only one state holds the secret. */
    if (fsm->state != SERVER_FSM_AUTH)
        FUZZ_CHECK(is_zero(fsm->expected, sizeof(fsm->expected)));
}

/* Carries actions out, as server/login.c does, until the machine wants bytes or is done. */
static void carry_out(struct run *run)
{
    struct server_action *action = &run->action;
    for (bool again = true; again;) {
        again = false;
        check_invariants(run);
        switch (action->type) {
        case SERVER_ACTION_FIND_SERVICE:
            FUZZ_CHECK(run->fsm.state == SERVER_FSM_LOOKUP);
            FUZZ_CHECK(server_fsm_wanted(&run->fsm) == 0);
            if (run->choice & SERVICE_EXISTS)
                server_fsm_service_found(&run->fsm, token, strlen(token), run->nonce, action);
            else
                server_fsm_service_unknown(&run->fsm, run->nonce, action);
            again = true;
            break;
        case SERVER_ACTION_LOGIN:
            FUZZ_CHECK(run->fsm.state == SERVER_FSM_REGISTER);
            FUZZ_CHECK(memcmp(action->digest, run->right, sizeof(run->right)) == 0);
            server_fsm_registered(&run->fsm, action);
            again = true;
            break;
        case SERVER_ACTION_SEND:
            FUZZ_CHECK(action->len == MESSAGE_HELLO_SIZE || action->len == MESSAGE_ACK_SIZE);
            break;
        case SERVER_ACTION_DATA_CHANNEL:
            FUZZ_CHECK(run->fsm.state == SERVER_FSM_DATA);
            run->over = true;
            break;
        case SERVER_ACTION_SEND_AND_CLOSE:
            FUZZ_CHECK(action->error == ERR_AUTH || action->error == ERR_NO_SERVICE);
            FUZZ_CHECK(action->len >= MESSAGE_ACK_SIZE);
            FUZZ_CHECK(run->fsm.state == SERVER_FSM_CLOSED);
            run->over = true;
            break;
        case SERVER_ACTION_CLOSE:
            FUZZ_CHECK(action->error == ERR_PROTOCOL || action->error == ERR_VERSION);
            FUZZ_CHECK(run->fsm.state == SERVER_FSM_CLOSED);
            run->over = true;
            break;
        case SERVER_ACTION_COUNT:
            FUZZ_CHECK(!"an action");
        }
    }
}

static void feed(struct run *run, const uint8_t *data, size_t size)
{
    while (!run->over) {
        size_t wanted = server_fsm_wanted(&run->fsm);
        FUZZ_CHECK(wanted > 0);
        const uint8_t *bytes = data;
        if (run->fsm.state == SERVER_FSM_AUTH && (run->choice & AUTH_IS_RIGHT)) {
            bytes = run->right;
        } else {
            if (size < wanted)
                return; /* end of the input */
            data += wanted;
            size -= wanted;
        }
        server_fsm_received(&run->fsm, bytes, wanted, &run->action);
        carry_out(run);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run run = {.nonce = {1, 2, 3}};
    if (size == 0)
        return 0;
    run.choice = data[0];
    FUZZ_CHECK(keys_init() == 0);
    keys_auth_digest(token, strlen(token), run.nonce, run.right);
    server_fsm_init(&run.fsm);
    feed(&run, data + 1,
         (run.choice & FINISH_EARLY) ? MIN(size - 1, MESSAGE_HELLO_SIZE) : size - 1);
    server_fsm_finish(&run.fsm);
    FUZZ_CHECK(run.fsm.state == SERVER_FSM_CLOSED);
    check_invariants(&run);
    return 0;
}
