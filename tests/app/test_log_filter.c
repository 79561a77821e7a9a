#include "app/log_filter.h"

#include <criterion/criterion.h>

#include "base/macros.h"

Test(log_filter, levels)
{
    static const struct {
        const char *filter;
        enum log_level expected; /* warn if the filter sets none */
    } rows[] = {
        {"info", LOG_INFO},
        {"INFO", LOG_INFO},
        {"trace", LOG_TRACE},
        {"off", LOG_ERROR},
        {"rathole=debug", LOG_DEBUG},
        {"rathole_uring=debug", LOG_DEBUG},
        {"rathole", LOG_TRACE},
        {"warn,rathole=trace", LOG_TRACE},
        {"rathole=error,debug", LOG_ERROR}, /* a named target wins in any order */
        {"info,debug", LOG_DEBUG},
        {"rathole=info,rathole_uring=debug", LOG_DEBUG},
        {" rathole = debug , hyper=info", LOG_DEBUG},
        {"hyper=trace,info", LOG_INFO},
        /* Filters that set nothing for this program, or nothing at all. */
        {"", LOG_WARN},
        {",,,", LOG_WARN},
        {"=", LOG_WARN},
        {"=debug", LOG_WARN},
        {"hyper=trace", LOG_WARN},
        {"verbose", LOG_WARN},
        {"rathole=verbose", LOG_WARN},
        {"rathole=", LOG_WARN},
        {"rathole::client=trace", LOG_WARN},
        {"[span{field=value}]=debug", LOG_WARN},
        {"rathole=debugdebugdebugdebugdebugdebugdebug", LOG_WARN},
        {"infoinfoinfoinfoinfoinfoinfoinfoinfoinfo", LOG_WARN},
        {"info=debug", LOG_WARN},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        enum log_level level = LOG_WARN;
        log_filter_level(rows[i].filter, &level);
        cr_expect_eq(level, rows[i].expected, "%s", rows[i].filter);
    }
}
