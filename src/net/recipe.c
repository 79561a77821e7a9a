#include "net/recipe.h"

#include <stdlib.h>

#include "net/noise_link.h"

int recipe_begin(const struct recipe *recipe, struct handshake **ret)
{
    *ret = NULL;
    if (!recipe->has_noise)
        return 0;
    return noise_handshake_create(&recipe->noise, recipe->is_initiator, ret);
}

bool recipe_is_coded(const struct recipe *recipe)
{
    return recipe->has_noise;
}

void recipe_destroy(struct recipe *recipe)
{
    if (recipe == NULL)
        return;
    noise_keys_wipe(&recipe->noise);
    free(recipe);
}
