/* The client's state machine. The input is a choice byte, a chunk size, and what the server sends.
 * The command stream goes in several times, in other pieces each time, and a model counts it; all
 * results agree. */
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "fuzz.h"
#include "proto/client_fsm.h"

enum { SEND_FAILS = 1, ENDS = 2 };

struct totals {
    size_t channels, heartbeats;
    bool failed;
};

/* Logs in with the first 41 bytes. True: the machine is UP, and *data and *size are the rest. */
static bool login(struct client_fsm *fsm, uint8_t choice, const uint8_t **data, size_t *size)
{
    struct client_action action;
    client_fsm_init(fsm);
    client_fsm_start(fsm, "web", 3, "token", 5, &action);
    FUZZ_CHECK(action.type == CLIENT_ACTION_SEND && action.len == MESSAGE_HELLO_SIZE);
    for (size_t wanted; (wanted = client_fsm_wanted(fsm)) > 0;) {
        if (*size < wanted)
            return false;
        client_fsm_received(fsm, *data, wanted, &action);
        *data += wanted;
        *size -= wanted;
        FUZZ_CHECK(action.type != CLIENT_ACTION_SEND || action.len == MESSAGE_AUTH_SIZE);
        FUZZ_CHECK((action.type == CLIENT_ACTION_CLOSE) == (fsm->state == CLIENT_FSM_CLOSED));
        FUZZ_CHECK((action.type == CLIENT_ACTION_UP) == (fsm->state == CLIENT_FSM_UP));
        FUZZ_CHECK(action.type != CLIENT_ACTION_CLOSE || action.error < 0);
        if (action.type == CLIENT_ACTION_SEND && (choice & SEND_FAILS))
            FUZZ_CHECK(client_fsm_send_failed(fsm, ERR_DEADLINE));
    }
    FUZZ_CHECK(fsm->state != CLIENT_FSM_UP || !(choice & SEND_FAILS));
    return fsm->state == CLIENT_FSM_UP;
}

static struct totals feed(struct client_fsm fsm, const uint8_t *data, size_t size, size_t chunk)
{
    struct totals totals = {0};
    while (size > 0 && !totals.failed) {
        size_t len = MIN(size, chunk);
        struct client_commands commands;
        int r = client_fsm_commands(&fsm, data, len, &commands);
        data += len;
        size -= len;
        if (r < 0) {
            FUZZ_CHECK(r == ERR_PROTOCOL && fsm.state == CLIENT_FSM_CLOSED);
            totals.failed = true;
        } else {
            totals.channels += commands.channels;
            totals.heartbeats += commands.heartbeats;
        }
    }
    client_fsm_finish(&fsm);
    return totals;
}

static struct totals model(const uint8_t *data, size_t size)
{
    struct totals totals = {0};
    for (size_t i = 0; i + 4 <= size && !totals.failed; i += 4) {
        if (data[i] > 1 || data[i + 1] != 0 || data[i + 2] != 0 || data[i + 3] != 0)
            totals.failed = true;
        else if (data[i] == 1)
            totals.heartbeats++;
        else
            totals.channels++;
    }
    return totals;
}

static void check_same(struct totals a, struct totals b)
{
    FUZZ_CHECK(a.failed == b.failed);
    /* Whether the commands before a bad one are reported depends on the pieces. */
    if (!a.failed)
        FUZZ_CHECK(a.channels == b.channels && a.heartbeats == b.heartbeats);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct client_fsm fsm;
    if (size < 2)
        return 0;
    uint8_t choice = data[0];
    size_t chunk = (size_t)data[1] + 1;
    data += 2;
    size -= 2;
    FUZZ_CHECK(keys_init() == 0);
    if (login(&fsm, choice, &data, &size)) {
        struct totals expected = model(data, size);
        check_same(expected, feed(fsm, data, size, chunk));
        check_same(expected, feed(fsm, data, size, 1));
        check_same(expected, feed(fsm, data, size, size + 1));
    }
    if (choice & ENDS) {
        int error = client_fsm_ended(&fsm, ERR_EOF);
        FUZZ_CHECK(error == ERR_EOF || error == ERR_DEADLINE);
    }
    client_fsm_finish(&fsm);
    for (size_t i = 0; i < sizeof(fsm.session_key); i++)
        FUZZ_CHECK(fsm.session_key[i] == 0);
    const struct keys_auth wiped = {{0}};
    FUZZ_CHECK(memcmp(&fsm.auth, &wiped, sizeof(wiped)) == 0);
    return 0;
}
