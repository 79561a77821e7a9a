/* Recognises files of another program, which would give an error for every line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

/* True, with one error in the report, for a configuration of frp. */
bool foreign_refuse(const char *file, const char *text, size_t size, struct config_report *report);
