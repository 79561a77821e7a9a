/* The first bytes of a visitor at an address that services share: in pieces they lead to the same
 * service as in one, whatever the visitor is told to wait for is more than what it has sent, and
 * names are in their one form. */
#include <string.h>

#include "config/config.h"
#include "config/routes.h"
#include "fuzz.h"
#include "server/route.h"

static const char file[] = "[server]\nbind_addr = 127.0.0.1:2333\ndefault_token = t\n"
                           "[server.services.a]\nbind_addr = 127.0.0.1:443\n"
                           "sni = a.example.com, *.b.example.com\nhost = a.example.com\n"
                           "[server.services.b]\nbind_addr = 127.0.0.1:443\nsni = b.example.com\n"
                           "host = *.example.com\n";

static const struct route_set *make_set(void)
{
    struct config *config;
    struct config_report report;
    FUZZ_CHECK(config_parse("fuzz", file, sizeof(file) - 1, &config, &report) == 0);
    const struct config_peer *server = config_half(config, CONFIG_SERVER);
    const struct route_set *set = route_set_use(server->services[server->service_count - 1].routes);
    FUZZ_CHECK(set != NULL);
    config_report_finish(&report);
    config_destroy(config);
    return set;
}

/* Gives the bytes as they are asked for. */
static enum route_answer look_in_pieces(const struct route_set *set, const uint8_t *bytes,
                                        size_t size, struct route_look *look)
{
    size_t have = 0;
    enum route_answer answer;
    while ((answer = route_look(set, bytes, have, look)) == ROUTE_MORE) {
        FUZZ_CHECK(look->needed > have);
        FUZZ_CHECK(look->scanned <= have);
        if (look->needed > size)
            break;
        have = look->needed;
    }
    return answer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct route_set *set;
    struct route_look whole = {.scanned = 0}, pieces = {.scanned = 0};
    char form[HOST_NAME_SIZE];
    if (set == NULL)
        set = make_set();
    uint8_t *bytes = malloc(MAX(size, (size_t)1)); /* so that a read beyond it is seen */
    if (bytes == NULL)
        return 0;
    if (size > 0)
        memcpy(bytes, data, size);
    enum route_answer answer = route_look(set, bytes, size, &whole);
    enum route_answer in_pieces = look_in_pieces(set, bytes, size, &pieces);
    /* A request is recognised by its first line: a wrong one may be refused before it is whole. */
    FUZZ_CHECK(answer == in_pieces || answer == ROUTE_MORE || in_pieces == ROUTE_NONE);
    if (answer == ROUTE_FOUND) {
        FUZZ_CHECK(in_pieces == ROUTE_FOUND && whole.digest == pieces.digest);
        FUZZ_CHECK(host_name_canonical(whole.name, strlen(whole.name), form) == 0);
        FUZZ_CHECK(strcmp(form, whole.name) == 0);
    }
    free(bytes);
    return 0;
}
