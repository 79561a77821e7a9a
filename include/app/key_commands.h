/* --genkey and --pubkey, from descriptor to descriptor: no buffer of stdio's keeps a key, and all
 * that held one is wiped. keys_init first. */
#pragma once

#include "base/macros.h"

/* Writes a new X25519 pair in the form that rathole's --genkey has. -errno: writing failed. */
MUST_CHECK int key_commands_generate(int out_fd);
/* Reads a private key to the end of the input and writes its public key. -EINVAL: there is anything
 * else than one key with white space around it; -errno: reading or writing failed. */
MUST_CHECK int key_commands_public(int in_fd, int out_fd);
