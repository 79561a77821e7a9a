/* Noise keys: which of them a pattern needs in each role, and what load can tell about those that
 * are given. For a missing key rathole uses a random one and then refuses every peer; here a
 * missing key is an error. */
#include <string.h>

#include "crypto/keys.h"
#include "crypto/noise.h"
#include "draft_priv.h"
#include "options_priv.h"

enum key_use { KEY_UNUSED, KEY_OPTIONAL, KEY_NEEDED };

struct pattern_keys {
    enum key_use local_private, remote_public;
};

/* XX sends both static public keys. Without a local private key, a random one is used. A remote
 * public key, if given, is compared with the key that the peer sends. */
static const struct pattern_keys pattern_keys[][2] = {
    [NOISE_NK] =
        {[CONFIG_SERVER] = {KEY_NEEDED, KEY_UNUSED}, [CONFIG_CLIENT] = {KEY_UNUSED, KEY_NEEDED}},
    [NOISE_XX] = {[CONFIG_SERVER] = {KEY_OPTIONAL, KEY_OPTIONAL},
                  [CONFIG_CLIENT] = {KEY_OPTIONAL, KEY_OPTIONAL}},
    [NOISE_KK] =
        {[CONFIG_SERVER] = {KEY_NEEDED, KEY_NEEDED}, [CONFIG_CLIENT] = {KEY_NEEDED, KEY_NEEDED}},
};

static const char *other_name(enum config_role role)
{
    return option_role_name(role == CONFIG_SERVER ? CONFIG_CLIENT : CONFIG_SERVER);
}

/* The line for a message about a missing key: that of its section, or of "type". */
static unsigned int missing_line(struct draft *draft, const struct draft_place *place)
{
    const struct draft_place transport = {place->role, SECTION_TRANSPORT, 0};
    unsigned int line = draft->roles[place->role].section_lines[SECTION_TRANSPORT_NOISE];
    return line != 0 ? line : draft_line_of(draft, &transport, "type");
}

static void check_local_private(struct draft *draft, const struct draft_place *place,
                                struct config_noise *noise)
{
    static const char key[] = "local_private_key";
    const char *name = noise_pattern_name(noise->pattern);
    unsigned int line = draft_line_of(draft, place, key);
    enum key_use use = pattern_keys[noise->pattern][place->role].local_private;
    if (line == 0 && use == KEY_NEEDED)
        (void)draft_say(draft, DRAFT_ERROR, missing_line(draft, place), place, key,
                        "missing, %s needs it: make a key pair with rathole-uring --genkey; the "
                        "private key goes here, the public key into "
                        "%s.transport.noise.remote_public_key of the other side",
                        name, other_name(place->role));
    if (line != 0 && use == KEY_UNUSED) {
        (void)draft_say(draft, DRAFT_NOTE, line, place, key, "has no effect with %s on this side",
                        name);
        keys_wipe(noise->local_private_key, sizeof noise->local_private_key);
        noise->has_local_private_key = false;
    }
}

static void check_remote_public(struct draft *draft, const struct draft_place *place,
                                struct config_noise *noise)
{
    static const char key[] = "remote_public_key";
    const char *name = noise_pattern_name(noise->pattern), *other = other_name(place->role);
    unsigned int line = draft_line_of(draft, place, key);
    enum key_use use = pattern_keys[noise->pattern][place->role].remote_public;
    if (line == 0 && use == KEY_NEEDED)
        (void)draft_say(draft, DRAFT_ERROR, missing_line(draft, place), place, key,
                        "missing, %s needs the %s's public key here: rathole-uring --genkey makes "
                        "it together with the private key, which goes into "
                        "%s.transport.noise.local_private_key of the other side",
                        name, other, other);
    if (line == 0 && use == KEY_OPTIONAL)
        (void)draft_say(draft, DRAFT_WARNING, missing_line(draft, place), place, key,
                        "not given, and %s does not authenticate the %s without it: %s", name,
                        other,
                        place->role == CONFIG_CLIENT ? "anybody on the path can stand in for it"
                                                     : "its tokens alone do");
    if (line != 0 && use == KEY_UNUSED) {
        (void)draft_say(draft, DRAFT_NOTE, line, place, key, "has no effect with %s on this side",
                        name);
        memset(noise->remote_public_key, 0, sizeof noise->remote_public_key);
        noise->has_remote_public_key = false;
    }
}

/* Finds keys that were mixed up. The same pair on both sides works, so it is only a warning. */
static void check_pair(struct draft *draft, const struct draft_place *place,
                       const struct config_noise *noise)
{
    static const char key[] = "remote_public_key";
    if (!noise->has_local_private_key || !noise->has_remote_public_key)
        return;
    const char *other = other_name(place->role);
    unsigned int line = draft_line_of(draft, place, key);
    uint8_t local_public[KEYS_X25519_SIZE];
    keys_pair_public(noise->local_private_key, local_public);
    if (keys_equal(noise->local_private_key, noise->remote_public_key, KEYS_X25519_SIZE))
        (void)draft_say(draft, DRAFT_ERROR, line, place, key,
                        "is the same as local_private_key: the %s's public key belongs here",
                        other);
    else if (keys_equal(local_public, noise->remote_public_key, KEYS_X25519_SIZE))
        (void)draft_say(draft, DRAFT_WARNING, line, place, key,
                        "belongs to the local_private_key of this side: the %s's public key "
                        "belongs here",
                        other);
}

void draft_validate_noise(struct draft *draft, enum config_role role)
{
    const struct draft_place place = {role, SECTION_TRANSPORT_NOISE, 0};
    struct config_transport *transport = &draft_peer(draft, role)->transport;
    size_t pattern_row = option_row(SECTION_TRANSPORT_NOISE, role, "pattern");
    bool is_used = transport->type == CONFIG_TRANSPORT_NOISE;
    draft_take_held(draft, &place, is_used);
    if (!is_used || draft->roles[role].is_held_refused[pattern_row])
        return;
    check_local_private(draft, &place, &transport->noise);
    check_remote_public(draft, &place, &transport->noise);
    check_pair(draft, &place, &transport->noise);
}
