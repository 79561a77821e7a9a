/* The command line without a configuration file:
 *
 *     rathole-uring server --bind :2333 --token-file T --ports 6000-6999
 *     rathole-uring client vps:2333 --token-file T 6022=127.0.0.1:22 name=unix:/run/app.sock
 *
 * Its words become the text of a file. --print-config prints that text, and a start reads it as it
 * reads a file, so there is one way of configuring. The text holds no secret: it says where the
 * token and the private key are.
 *
 * A port of the server is the service tcp-PORT or udp-PORT, which is a member of a range
 * (config/range.h), so either side may have a file instead. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "app/usage.h"
#include "base/addr.h"
#include "base/macros.h"
#include "base/text.h"
#include "config/config.h"

#define QUICK_FILE           "--print-config" /* the name of the text in messages */
#define QUICK_TOKEN_VARIABLE "RATHOLE_URING_TOKEN"

enum { QUICK_SECRET_SIZE = PATH_MAX + sizeof "file:" };

struct quick_service {
    const char *name; /* NULL: ports */
    size_t name_size;
    uint16_t first, last;
    bool is_udp;
    struct host_port addr; /* client; server: with a name */
};

struct quick {
    enum config_role role;
    bool prints_config, has_noise;
    struct host_port addr; /* server: --bind; client: the server */
    const char *token_file;
    const char *server_key;
    struct quick_service *services;
    size_t service_count;

    /* by quick_prepare: file:PATH or env:NAME, as in a configuration */
    char token[QUICK_SECRET_SIZE], private_key[QUICK_SECRET_SIZE];
    bool is_token_kept, is_token_new;
};

/* words: how many there are at most. -ENOMEM. quick_finish is needed in either case. */
MUST_CHECK int quick_begin(enum config_role role, int words, struct quick *ret);
void quick_finish(struct quick *quick);
/* What the words mean. -EINVAL: problem says in one line what is wrong. */
MUST_CHECK int quick_set_bind(struct quick *quick, const char *word,
                              char problem[static CLI_PROBLEM_SIZE]);
MUST_CHECK int quick_add_ports(struct quick *quick, const char *word,
                               char problem[static CLI_PROBLEM_SIZE]);
/* A client's words that are no flags: the server, then services. */
MUST_CHECK int quick_add_word(struct quick *quick, const char *word,
                              char problem[static CLI_PROBLEM_SIZE]);
/* What is missing. */
MUST_CHECK int quick_end(struct quick *quick, char problem[static CLI_PROBLEM_SIZE]);

/* Finds the secrets, and makes those of a server that are not there. -EINVAL: a usage error;
 * another -errno: a secret can't be made. problem says why. */
MUST_CHECK int quick_prepare(struct quick *quick, char problem[static CLI_PROBLEM_SIZE]);
/* Writes the configuration. Check text->failed. */
void quick_write(const struct quick *quick, struct text *text);
/* What a server prints when it serves: the line for the other side, with a token that was made just
 * now. server: its configuration. The caller wipes the text. */
void quick_write_welcome(const struct quick *quick, const struct config_peer *server,
                         struct text *text);
