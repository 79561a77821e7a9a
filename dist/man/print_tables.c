/* Prints the tables that the program itself works by: `options` as docs/options.md has them, `arguments`
 * as --help does. The manual pages are made of them (scripts/make_man), and checks compare. */
#include <stdio.h>
#include <string.h>

#include "app/cli.h"
#include "config/config.h"

int main(int argc, char *argv[])
{
    const char *table = argc == 2 ? argv[1] : "";
    if (strcmp(table, "options") == 0) {
        config_print_options(stdout);
    } else if (strcmp(table, "arguments") == 0) {
        cli_print_usage(stdout);
    } else {
        (void)fprintf(stderr, "usage: print_tables options | arguments\n");
        return 2;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
