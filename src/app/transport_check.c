#include "app/transport_check.h"

#include <assert.h>
#include <stdio.h>

#include "base/error.h"
#include "tunnel/make_recipe.h"

static_assert((int)TRANSPORT_PROBLEM_SIZE >= (int)RECIPE_WHY_SIZE, "room for why, and the file");

int transport_check(const char *file, enum config_role role, const struct config_peer *peer,
                    char problem[static TRANSPORT_PROBLEM_SIZE])
{
    struct recipe *recipe = NULL;
    char why[RECIPE_WHY_SIZE];
    int result = recipe_create(role, peer, &recipe, why);
    recipe_destroy(recipe);
    if (result == ERR_CONFIG)
        (void)snprintf(problem, TRANSPORT_PROBLEM_SIZE, "%s: %s", file, why);
    else if (result < 0)
        (void)snprintf(problem, TRANSPORT_PROBLEM_SIZE, "%s: %s", file, error_text(result));
    return result < 0 ? ERR_CONFIG : 0;
}
