/* Files of another program, which would be an error for each line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

/* True for a file of frp's: one error says so. */
bool foreign_refuse(const char *file, const char *text, size_t size, struct config_report *report);
