#include "app/transport_check.h"

#include <assert.h>
#include <stdio.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "crypto/tls.h"
#include "tunnel/make_recipe.h"

enum { DAY_S = 24 * 60 * 60, EXPIRY_TEXT_SIZE = 160 };

static_assert((int)TRANSPORT_PROBLEM_SIZE >= (int)RECIPE_WHY_SIZE, "room for why, and the file");

bool transport_warn_of_expiry(time_t expiry, time_t now, char *text, size_t size)
{
    struct tm tm;
    char date[36];
    if (expiry == 0 || expiry - now > LIMIT_CERTIFICATE_WARNING_S || gmtime_r(&expiry, &tm) == NULL)
        return false;
    long days = (long)((expiry - now) / DAY_S);
    /* Not strftime(3), which the static binary would have for this alone. */
    (void)snprintf(date, sizeof(date), "%d-%02d-%02d", tm.tm_year + 1900, tm.tm_mon + 1,
                   tm.tm_mday);
    if (expiry <= now)
        (void)snprintf(text, size, "the certificate has expired (%s): renew it, then send SIGHUP",
                       date);
    else if (days == 0)
        (void)snprintf(text, size, "the certificate expires in less than a day (%s)", date);
    else
        (void)snprintf(text, size, "the certificate expires in %ld day%s (%s)", days,
                       days == 1 ? "" : "s", date);
    return true;
}

static void warn(const char *file, const struct recipe *recipe,
                 char said[static TRANSPORT_PROBLEM_SIZE])
{
    char text[EXPIRY_TEXT_SIZE];
    time_t expiry = recipe->tls != NULL ? tls_context_expiry(recipe->tls) : 0;
    if (expiry != 0 && transport_warn_of_expiry(expiry, time(NULL), text, sizeof(text)))
        (void)snprintf(said, TRANSPORT_PROBLEM_SIZE, "%s: %s.transport.tls: %s", file,
                       recipe->is_initiator ? "client" : "server", text);
}

int transport_check(const char *file, enum config_role role, const struct config_peer *peer,
                    char said[static TRANSPORT_PROBLEM_SIZE], struct recipe **ret)
{
    struct recipe *recipe = NULL;
    char why[RECIPE_WHY_SIZE];
    said[0] = '\0';
    /* Nothing of Noise can fail here, and a key pair takes random numbers, which --check can do
     * without. */
    if (ret == NULL && peer->transport.type == CONFIG_TRANSPORT_NOISE)
        return 0;
    int result = recipe_create(role, peer, &recipe, why);
    if (result == 0)
        warn(file, recipe, said);
    else
        (void)snprintf(said, TRANSPORT_PROBLEM_SIZE, "%s: %s", file,
                       result == ERR_CONFIG ? why : error_text(result));
    if (ret != NULL && result == 0)
        *ret = take_ptr(recipe);
    recipe_destroy(recipe);
    return result < 0 ? ERR_CONFIG : 0;
}

void transport_log_library(const struct config_peer *peer)
{
    const char *library = config_has_tls(&peer->transport) ? tls_description() : NULL;
    if (library != NULL)
        log_info("tls: by %s", library);
}
