/* The recipe of connections (net/recipe.h) from the configuration. */
#pragma once

#include "base/macros.h"
#include "config/config.h"
#include "net/recipe.h"

enum { RECIPE_WHY_SIZE = 640 };

/* Makes the recipe; reads the files of TLS, so it is for the main thread. ERR_CONFIG: `why` says
 * which key is at fault, why, and what to do. -ENOMEM. */
MUST_CHECK int recipe_create(enum config_role role, const struct config_peer *config,
                             struct recipe **ret, char why[static RECIPE_WHY_SIZE]);
/* For the start of a role, which the check of the transport comes before: takes *made over, or
 * makes the recipe if `made` or *made is NULL. As recipe_create. */
MUST_CHECK int recipe_take(enum config_role role, const struct config_peer *config,
                           struct recipe **made, struct recipe **ret);
