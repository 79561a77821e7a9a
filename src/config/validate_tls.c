/* TLS and WebSocket: what each role needs, as rathole does, and what contradicts itself. The
 * certificates and keys themselves are read later, when a role starts or a reload is applied. */
#include <sys/stat.h>

#include "draft_priv.h"
#include "options_priv.h"

/* The line for a message about a missing key: that of its section, or of the transport's "type". */
static unsigned int section_line(struct draft *draft, const struct draft_place *place)
{
    const struct draft_place transport = {place->role, SECTION_TRANSPORT, 0};
    unsigned int line = draft->roles[place->role].section_lines[place->section];
    return line != 0 ? line : draft_line_of(draft, &transport, "type");
}

/* Without the key it would be a guess whether a proxy in front of the server does the TLS. Returns
 * true if the table of TLS is used. */
static bool validate_websocket(struct draft *draft, enum config_role role)
{
    static const char key[] = "tls";
    const struct draft_place place = {role, SECTION_TRANSPORT_WEBSOCKET, 0};
    const struct config_transport *transport = &draft_peer(draft, role)->transport;
    bool is_used = transport->type == CONFIG_TRANSPORT_WEBSOCKET;
    draft_take_held(draft, &place, is_used);
    if (is_used && draft_line_of(draft, &place, key) == 0)
        (void)draft_say(draft, DRAFT_ERROR, section_line(draft, &place), &place, key,
                        "missing, type = websocket needs it: true for TLS below the WebSocket, "
                        "false without encryption or behind a proxy that does the TLS");
    return config_has_tls(transport);
}

/* True if the key is there; a value that was refused, which is in the report, counts. */
static bool has_key(struct draft *draft, const struct draft_place *place, const char *key)
{
    return draft_line_of(draft, place, key) != 0;
}

/* A key that is nothing without another one. */
static void check_companion(struct draft *draft, const struct draft_place *place, const char *key,
                            const char *companion)
{
    if (has_key(draft, place, key) && !has_key(draft, place, companion))
        (void)draft_say(draft, DRAFT_ERROR, draft_line_of(draft, place, key), place, key,
                        "needs %s as well", companion);
}

static void check_certificate(struct draft *draft, const struct draft_place *place)
{
    bool has_pkcs12 = has_key(draft, place, "pkcs12");
    bool has_certificate = has_key(draft, place, "certificate");
    if (has_pkcs12 && has_certificate)
        (void)draft_say(draft, DRAFT_ERROR, draft_line_of(draft, place, "certificate"), place,
                        "certificate", "there is one in pkcs12 as well: only one of them is used");
    check_companion(draft, place, "pkcs12", "pkcs12_password");
    /* rathole's clients ignore it. */
    if (place->role == CONFIG_SERVER)
        check_companion(draft, place, "pkcs12_password", "pkcs12");
    else if (has_key(draft, place, "pkcs12_password") && !has_pkcs12)
        (void)draft_say(draft, DRAFT_NOTE, draft_line_of(draft, place, "pkcs12_password"), place,
                        "pkcs12_password", "has no effect without pkcs12");
    check_companion(draft, place, "certificate", "private_key");
    check_companion(draft, place, "private_key", "certificate");
}

/* As for a file with a token. */
static void check_mode(struct draft *draft, const struct draft_place *place, const char *key,
                       const char *path)
{
    struct stat status;
    if (path != NULL && stat(path, &status) == 0 && (status.st_mode & S_IROTH) != 0)
        (void)draft_say(draft, DRAFT_NOTE, draft_line_of(draft, place, key), place, key,
                        "every user can read the file with the private key; chmod 600 fixes it");
}

static bool has_any(struct draft *draft, const struct draft_place *place)
{
    static const char *const keys[] = {"pkcs12", "pkcs12_password", "certificate", "private_key"};
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (has_key(draft, place, keys[i]))
            return true;
    return false;
}

static void check_tls_server(struct draft *draft, const struct draft_place *place)
{
    if (!has_any(draft, place))
        (void)draft_say(draft, DRAFT_ERROR, section_line(draft, place), place, NULL,
                        "a server needs a certificate: pkcs12 and pkcs12_password, or certificate "
                        "and private_key");
}

/* rathole refuses a file without the section. */
static void check_tls_client(struct draft *draft, const struct draft_place *place,
                             const struct config_tls *tls)
{
    if (draft->roles[place->role].section_lines[place->section] == 0)
        (void)draft_say(draft, DRAFT_ERROR, section_line(draft, place), place, NULL,
                        "missing: TLS needs the section; an empty one trusts the system's root "
                        "certificates, and trusted_root adds another one");
    if (tls->trust_only_file)
        check_companion(draft, place, "trust_only_file", "trusted_root");
}

void draft_validate_tls(struct draft *draft, enum config_role role)
{
    const struct draft_place place = {role, SECTION_TRANSPORT_TLS, 0};
    struct config_transport *transport = &draft_peer(draft, role)->transport;
    bool is_used = validate_websocket(draft, role);
    draft_take_held(draft, &place, is_used);
    if (!is_used)
        return;
    transport->tls.line = section_line(draft, &place);
    check_certificate(draft, &place);
    check_mode(draft, &place, "pkcs12", transport->tls.pkcs12);
    check_mode(draft, &place, "private_key", transport->tls.private_key);
    if (role == CONFIG_SERVER)
        check_tls_server(draft, &place);
    else
        check_tls_client(draft, &place, &transport->tls);
}
