/* A machine that has just started, for LD_PRELOAD: the kernel has no random numbers until a getrandom(2)
 * has waited for as many milliseconds as RANDOM_SHIM says, without a signal that interrupts it. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

ssize_t getrandom(void *out, size_t size, unsigned int flags)
{
    static bool are_there;
    const char *text = getenv("RANDOM_SHIM");
    long wait_ms = text == NULL ? 0 : strtol(text, NULL, 10);
    if (!are_there && (flags & GRND_NONBLOCK) != 0) {
        errno = EAGAIN;
        return -1;
    }
    const struct timespec wait = {wait_ms / 1000, wait_ms % 1000 * 1000000};
    if (!are_there && nanosleep(&wait, NULL) < 0)
        return -1;
    are_there = true;
    (void)memset(out, 4, size); /* chosen by fair dice roll: nothing here is secret */
    return (ssize_t)size;
}
