/* What is wrong with the command line, in one line. */
#pragma once

enum { CLI_PROBLEM_SIZE = 256 };

/* Writes before, text and after; text is a word of argv, whose control bytes are replaced. -EINVAL.
 */
int usage_refuse(char problem[static CLI_PROBLEM_SIZE], const char *before, const char *text,
                 const char *after);
