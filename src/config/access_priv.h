/* Lists of addresses (allow, deny) while a file is being read: the prefixes of all its keys, which
 * become one set when the whole file is known. */
#pragma once

#include "base/macros.h"
#include "config/config.h"
#include "options_priv.h"

/* The target of both is a struct config_access, because they share it. */
option_parser value_allow, value_deny;

/* Makes the set of the prefixes. 0 or -ENOMEM. */
MUST_CHECK int config_access_settle(struct config_access *access);
/* For a copy of the struct: it becomes a user of the set too. */
void config_access_share(struct config_access *access);
void config_access_finish(struct config_access *access);
