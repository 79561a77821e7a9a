#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "app/program.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/macros.h"
#include "config/config.h"
#include "sandbox_priv.h"

/* Tells a successor that it has a layer already: there may be 16 (landlock(7)). */
#define CONFINED_VARIABLE "RATHOLE_URING_CONFINED"

static bool is_on;
static _Atomic int in_force[SANDBOX_PARTS]; /* as in struct sandbox_facts */

/* An error stays, if another thread has the part. */
static void note(enum sandbox_part part, int result)
{
    int before = 0;
    if (result < 0)
        atomic_store(&in_force[part], result);
    else
        (void)atomic_compare_exchange_strong(&in_force[part], &before, result);
}

static void note_confined(void)
{
    note(SANDBOX_FILES, 1);
    files_confine();
}

void sandbox_init(void)
{
    note(SANDBOX_NO_NEW_PRIVS, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 1);
    if (getenv(CONFINED_VARIABLE) != NULL && program_has_channel())
        note_confined();
    else
        (void)unsetenv(CONFINED_VARIABLE);
}

void sandbox_start(enum config_role role, const struct config_peer *peer, const char *program)
{
    is_on = peer->sandbox == CONFIG_SANDBOX_ON;
    if (!is_on)
        return;
    sandbox_watch_calls();
    if (atomic_load(&in_force[SANDBOX_FILES]) == 1)
        return;
    /* Without the variable the next process would add a layer, and the sixteenth could not. */
    int result = setenv(CONFINED_VARIABLE, "1", 1) < 0 ? -errno : 1;
    if (result == 1)
        result = sandbox_confine_files(role, peer, program);
    if (result == 1) {
        note_confined();
        return;
    }
    note(SANDBOX_FILES, result);
    (void)unsetenv(CONFINED_VARIABLE);
}

void sandbox_enter(enum sandbox_thread thread)
{
    if (!is_on)
        return;
    note(SANDBOX_LANDLOCK, sandbox_forbid_files(thread)); /* by calls that the list lacks */
    note(SANDBOX_SECCOMP, sandbox_restrict_calls(thread));
}

/* ---- what is in force ---- */

struct sandbox_facts sandbox_facts(void)
{
    struct sandbox_facts facts = {.is_on = is_on};
    int last;
    for (size_t i = 0; i < SANDBOX_PARTS; i++)
        facts.parts[i] = atomic_load(&in_force[i]);
    facts.refusals = sandbox_refused_calls(&last);
    return facts;
}

const char *sandbox_part_name(enum sandbox_part part)
{
    static const char *const names[] = {"no_new_privs", "seccomp", "landlock", "landlock_main"};
    return names[part];
}

static const char *part_text(int state)
{
    return state == SANDBOX_IN_PART ? "on, without ports"
           : state == 1             ? "on"
           : state == 0             ? "off"
                                    : error_text(state);
}

void sandbox_log(void)
{
    const struct sandbox_facts facts = sandbox_facts();
    char text[SANDBOX_TEXT_SIZE] = "";
    size_t used = 0;
    bool is_whole = true;
    for (size_t i = 0; i < SANDBOX_PARTS && used < sizeof(text); i++) {
        is_whole &= facts.parts[i] >= 0;
        used +=
            (size_t)snprintf(text + used, sizeof(text) - used, ", %s: %s",
                             sandbox_part_name((enum sandbox_part)i), part_text(facts.parts[i]));
    }
    log_at(is_whole ? LOG_INFO : LOG_WARN, "sandbox: %s%s", is_on ? "on" : "off", text);
}

void sandbox_log_refusals(void)
{
    static unsigned int logged;
    int last;
    unsigned int count = sandbox_refused_calls(&last);
    if (count == logged)
        return;
    log_error("sandbox: refused system call %d (%u refused so far): an attack, or a bug of this "
              "program or of a library; please report it",
              last, count);
    logged = count;
}

const char *sandbox_describe(char text[static SANDBOX_TEXT_SIZE])
{
    int version = sandbox_landlock_version();
#ifdef WITH_SANDBOX
    if (version < 0)
        (void)snprintf(text, SANDBOX_TEXT_SIZE, "sandbox: no_new_privs, seccomp; Landlock: %s",
                       error_text(version));
    else
        (void)snprintf(text, SANDBOX_TEXT_SIZE,
                       "sandbox: no_new_privs, seccomp, Landlock (version %d here)", version);
#else
    (void)snprintf(text, SANDBOX_TEXT_SIZE, "sandbox: no_new_privs; this build has no other (%s)",
                   error_text(version));
#endif
    return text;
}
