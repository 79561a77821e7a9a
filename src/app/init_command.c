#include "app/init_command.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "app/new_file.h"
#include "app/quick.h"
#include "crypto/keys.h"

enum { INIT_TEXT_MAX = 4096 }; /* all at once: a text that grows leaves copies of secrets behind */

static int init_save(const struct quick *quick, const char *name, const char *comment)
{
    struct text text;
    text_init(&text, INIT_TEXT_MAX);
    text_puts(&text, comment);
    quick_write(quick, &text);
    int result = text.failed ? -ENOMEM : new_file_write(name, text.bytes, text.len);
    keys_wipe(text.bytes, text.len);
    text_finish(&text);
    return result;
}

/* As the command line makes it, but with a token and a key that stand in the file itself. */
static int init_make(enum config_role role, const char *const words[2], const char *token,
                     struct quick *ret)
{
    char problem[CLI_PROBLEM_SIZE];
    int result = quick_begin(role, 1, ret);
    for (size_t i = 0; i < 2 && result == 0; i++)
        result = quick_add_word(ret, words[i], problem);
    memcpy(ret->token, token, KEYS_TEXT_SIZE);
    return result;
}

static int init_save_both(const char *token, const char *private_key, const char *public_key)
{
    static const char *const server_words[] = {"0.0.0.0:2333", "ssh=0.0.0.0:6022"};
    static const char *const client_words[] = {"127.0.0.1:2333", "ssh=22"};
    struct quick server = {.has_noise = true}, client = {.server_key = public_key};
    int result = init_make(CONFIG_SERVER, server_words, token, &server);
    if (result == 0)
        result = init_make(CONFIG_CLIENT, client_words, token, &client);
    memcpy(server.private_key, private_key, KEYS_TEXT_SIZE);
    if (result == 0)
        result = init_save(&server, "server.ini", "# Run: rathole-uring server.ini\n\n");
    if (result == 0) {
        result = init_save(&client, "client.ini",
                           "# Run: rathole-uring client.ini\n"
                           "# Change remote_addr to the server's.\n\n");
        if (result < 0)
            (void)unlink("server.ini");
    }
    quick_finish(&server);
    quick_finish(&client);
    keys_wipe(server.token, sizeof server.token);
    keys_wipe(server.private_key, sizeof server.private_key);
    keys_wipe(client.token, sizeof client.token);
    return result;
}

int init_command(const char *directory)
{
    uint8_t secret[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE];
    char texts[3][KEYS_TEXT_SIZE];
    if (chdir(directory) < 0)
        return -errno;
    keys_random(secret, sizeof secret);
    keys_to_text(secret, texts[0]);
    keys_pair_generate(secret, public_key);
    keys_to_text(secret, texts[1]);
    keys_to_text(public_key, texts[2]);
    int result = init_save_both(texts[0], texts[1], texts[2]);
    keys_wipe(secret, sizeof secret);
    keys_wipe(texts, sizeof texts);
    return result;
}
