/* The values of the options that are about PROXY headers. */
#include "options_priv.h"

int value_proxy_protocol(struct option_value *value, void *target)
{
    static const struct option_word words[] = {{"v1", 1}, {"v2", 2}, {"off", 0}};
    int number = 0;
    int result = 0;
    if (*value->text != '\0') /* as in rathole's plans, where empty is off */
        result = value_parse_word(value, words, ARRAY_SIZE(words), &number);
    if (number != 0)
        *(uint32_t *)target = (uint32_t)number;
    return result;
}

/* The field is that of proxy_protocol. "off", which is that key's default, and false leave it as it
 * is, so the two may come in any order. */
int value_enable_proxy_protocol(struct option_value *value, void *target)
{
    bool is_enabled = false;
    int result = value_bool(value, &is_enabled);
    if (is_enabled)
        *(uint32_t *)target = 1;
    return result;
}

int value_proxy_protocol_udp(struct option_value *value, void *target)
{
    static const struct option_word words[] = {{"first", CONFIG_HEADER_FIRST},
                                               {"always", CONFIG_HEADER_ALWAYS}};
    int number;
    int result = value_parse_word(value, words, ARRAY_SIZE(words), &number);
    if (result == 0)
        *(enum config_proxy_protocol_udp *)target = (enum config_proxy_protocol_udp)number;
    return result;
}
