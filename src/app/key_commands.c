#include "app/key_commands.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app/new_file.h"
#include "crypto/keys.h"

enum { INPUT_SIZE_MAX = 4096 }; /* a key, and ample white space */

/* Reads size bytes, or fewer if the input ends before. Returns their number, or -errno. */
static ssize_t key_read_all(int fd, char *out, size_t size)
{
    size_t used = 0;
    while (used < size) {
        ssize_t got = read(fd, out + used, size - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        used += (size_t)got;
    }
    return (ssize_t)used;
}

int key_commands_generate(int out_fd)
{
    uint8_t private_key[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE];
    char private_text[KEYS_TEXT_SIZE], public_text[KEYS_TEXT_SIZE], text[4 * KEYS_TEXT_SIZE];
    keys_pair_generate(private_key, public_key);
    keys_to_text(private_key, private_text);
    keys_to_text(public_key, public_text);
    int length = snprintf(text, sizeof(text), "Private Key:\n%s\n\nPublic Key:\n%s\n", private_text,
                          public_text);
    int result = write_all(out_fd, text, (size_t)length);
    keys_wipe(private_key, sizeof(private_key));
    keys_wipe(private_text, sizeof(private_text));
    keys_wipe(text, sizeof(text));
    return result;
}

/* Like a key file that a configuration names: a byte order mark and white space around the key are
 * skipped. */
static int parse_private(const char *text, size_t size, uint8_t ret[static KEYS_X25519_SIZE])
{
    static const char mark[] = "\xef\xbb\xbf";
    if (size >= sizeof(mark) - 1 && strncmp(text, mark, sizeof(mark) - 1) == 0) {
        text += sizeof(mark) - 1;
        size -= sizeof(mark) - 1;
    }
    while (size > 0 && isspace((unsigned char)*text)) {
        text++;
        size--;
    }
    while (size > 0 && isspace((unsigned char)text[size - 1]))
        size--;
    return keys_from_text(text, size, ret);
}

int key_commands_public(int in_fd, int out_fd)
{
    char input[INPUT_SIZE_MAX + 1];
    uint8_t private_key[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE];
    ssize_t size = key_read_all(in_fd, input, sizeof(input));
    int result = size < 0                ? (int)size
                 : size > INPUT_SIZE_MAX ? -EINVAL
                                         : parse_private(input, (size_t)size, private_key);
    keys_wipe(input, sizeof(input));
    if (result < 0)
        return result;
    keys_pair_public(private_key, public_key);
    keys_wipe(private_key, sizeof(private_key));
    char text[KEYS_TEXT_SIZE];
    keys_to_text(public_key, text);
    text[KEYS_TEXT_SIZE - 1] = '\n';
    return write_all(out_fd, text, sizeof(text));
}
