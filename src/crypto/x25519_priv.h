/* The backends of X25519, for tests that want one of them. */
#pragma once

#include "crypto/x25519.h"

enum x25519_backend { X25519_SODIUM, X25519_OWN, X25519_BACKEND_COUNT };

/* What x25519_setup would have measured. Not while other threads call. */
void x25519_choose(enum x25519_backend for_public, enum x25519_backend for_shared);
