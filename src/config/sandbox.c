#include "options_priv.h"

int value_sandbox(struct option_value *value, void *target)
{
    static const struct option_word words[] = {{"on", CONFIG_SANDBOX_ON},
                                               {"off", CONFIG_SANDBOX_OFF}};
    int number;
    int result = value_parse_word(value, words, ARRAY_SIZE(words), &number);
    if (result == 0)
        *(enum config_sandbox *)target = (enum config_sandbox)number;
    return result;
}
