/* Prints the table of options as README.md has it; scripts/check_readme compares the two. */
#include "config/config.h"

int main(void)
{
    config_print_options(stdout);
    return 0;
}
