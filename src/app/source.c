#include "app/source.h"

#include <poll.h>
#include <unistd.h>

#include "app/new_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"

int source_load(const struct source *source, const enum config_role *half, struct config **ret,
                struct config_report *report)
{
    if (source->text != NULL) /* it has one half */
        return config_parse(source->path, source->text, source->text_size, ret, report);
    return half != NULL ? config_load_half(source->path, *half, ret, report)
                        : config_load(source->path, ret, report);
}

const char *source_watched_path(const struct source *source)
{
    return source->text == NULL ? source->path : "";
}

void source_welcome(const struct source *source)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    if (source->welcome == NULL || poll(&out, 1, 0) != 1)
        return;
    int result = write_all(STDOUT_FILENO, source->welcome->bytes, source->welcome->len);
    if (result < 0)
        log_debug("%s", error_text(result));
}
