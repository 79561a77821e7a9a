/* The page that GET / serves: src/app/status_page.html, compressed by gzip when the program is
 * built (scripts/embed_page). */
#pragma once

#include <stddef.h>

extern const unsigned char status_page[];
extern const size_t status_page_size;
/* Header lines that go with it: its encoding, and a policy that runs its own scripts alone. */
extern const char status_page_headers[];
