/* The whole program with faults: RATHOLE_FAULTS has the rules (faults_parse). It is linked in
 * developer builds only, and never installed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "faults.h"

__attribute__((constructor)) static void take_rules(void)
{
    static const char problem[] = "RATHOLE_FAULTS: not rules\n";
    const char *text = getenv("RATHOLE_FAULTS");
    faults_tell(true);
    if (text == NULL || faults_parse(text))
        return;
    ssize_t written = write(STDERR_FILENO, problem, sizeof(problem) - 1);
    (void)written;
    _exit(2);
}

/* At the end: how many allocations there were, so that a rule can be about a later one than those of
 * the start. */
__attribute__((destructor)) static void tell_uses(void)
{
    char line[60];
    (void)snprintf(line, sizeof(line), "faults: %llu allocations\n",
                   (unsigned long long)faults_uses(FAULT_ALLOC));
    ssize_t written = write(STDERR_FILENO, line, strlen(line));
    (void)written;
}
