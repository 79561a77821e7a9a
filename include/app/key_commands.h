/* --genkey and --pubkey, from descriptor to descriptor. They do not use stdio, whose buffers would
 * keep a key, and wipe all memory that held a private key. keys_init must have been called. */
#pragma once

#include "base/macros.h"

/* Writes a new X25519 key pair (RFC 7748) in the format of rathole's --genkey. -errno: writing
 * failed. */
MUST_CHECK int key_commands_generate(int out_fd);
/* Reads a private key up to the end of the input, and writes its public key. -EINVAL: the input is
 * not one key with nothing but white space around it; other -errno: reading or writing failed. */
MUST_CHECK int key_commands_public(int in_fd, int out_fd);
