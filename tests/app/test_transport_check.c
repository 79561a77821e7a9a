#include "app/transport_check.h"

#include <criterion/criterion.h>
#include <string.h>

#include "net/recipe.h"

enum { DAY = 24 * 60 * 60 };

static const time_t now = 1795867200; /* 2026-11-28, noon */

static const char *warned(time_t expiry)
{
    static char text[160];
    return transport_warn_of_expiry(expiry, now, text, sizeof(text)) ? text : "";
}

Test(transport_check, certificates_that_expire_soon)
{
    cr_expect_str_eq(warned(now + 14 * DAY + 1), "");
    cr_expect_str_eq(warned(now + 14 * DAY), "the certificate expires in 14 days (2026-12-12)");
    cr_expect_str_eq(warned(now + 4 * DAY - 1), "the certificate expires in 3 days (2026-12-02)");
    cr_expect_str_eq(warned(now + 2 * DAY - 1), "the certificate expires in 1 day (2026-11-30)");
    cr_expect_str_eq(warned(now + DAY - 1),
                     "the certificate expires in less than a day (2026-11-29)");
    cr_expect_str_eq(warned(now + 1), "the certificate expires in less than a day (2026-11-28)");
    cr_expect_str_eq(warned(now),
                     "the certificate has expired (2026-11-28): renew it, then send SIGHUP");
    cr_expect_str_eq(warned(now - 30 * DAY),
                     "the certificate has expired (2026-10-29): renew it, then send SIGHUP");
    cr_expect_str_eq(warned(0), "", "there is no certificate");
}

/* A year that a date can't have in so many bytes is no warning, and no harm. */
Test(transport_check, absurd_dates)
{
    cr_expect_str_eq(warned((time_t)1 << 50), "");
    cr_expect_str_eq(warned(1),
                     "the certificate has expired (1970-01-01): renew it, then send SIGHUP");
}

static struct config_peer peer_with(enum config_transport_type type)
{
    struct config_peer peer = {0};
    (void)strcpy(peer.addr.host, "192.0.2.1");
    peer.addr.port = 2333;
    peer.transport.type = type;
    return peer;
}

Test(transport_check, says_nothing_of_what_needs_no_files)
{
    char said[TRANSPORT_PROBLEM_SIZE] = "left over";
    struct config_peer peer = peer_with(CONFIG_TRANSPORT_WEBSOCKET);
    struct recipe *recipe = NULL;
    cr_expect_eq(transport_check("f", CONFIG_SERVER, &peer, said, NULL), 0);
    cr_expect_str_eq(said, "");
    cr_expect_eq(transport_check("f", CONFIG_SERVER, &peer, said, &recipe), 0);
    cr_assert_not_null(recipe);
    cr_expect(recipe->is_websocket);
    recipe_destroy(recipe);
}

Test(transport_check, names_the_file_and_the_table)
{
    char said[TRANSPORT_PROBLEM_SIZE];
    struct config_peer peer = peer_with(CONFIG_TRANSPORT_TLS);
    cr_expect_lt(transport_check("f", CONFIG_SERVER, &peer, said, NULL), 0);
    cr_expect_eq(strncmp(said, "f: server.transport.tls: ", 25), 0, "%s", said);
}
