/* Names of hosts, in the one form in which they are compared: lower case, without a dot at the end.
 * Letters, digits, '-', '_' and dots, as in the DNS and in certificates (RFC 1123 section 2.1; '_'
 * is in use, and IDNs are in their ASCII form). Pure. */
#pragma once

#include <stddef.h>

#include "base/macros.h"

enum { HOST_NAME_SIZE = 254 }; /* with its NUL; RFC 1035 section 3.1 */

/* Writes the one form of a name. -EINVAL: it is none. */
MUST_CHECK int host_name_canonical(const char *text, size_t size, char out[static HOST_NAME_SIZE]);
