/* Other programs' configurations: a program in Python beside this one reads them. */
#pragma once

/* Becomes that program, which prints our configuration on standard output and notes on standard
 * error. words: its arguments, from words[1] on, which is --from-frp or --from-rathole. Returns
 * -errno only if that fails, which is said on standard error. */
int convert_exec(char *const words[]);
