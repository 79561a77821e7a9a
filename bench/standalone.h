/* For the C programs of this directory that need nothing of the project. */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The process ends, with errno in words. */
static inline _Noreturn void fail(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static inline void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        fail("calloc");
    return memory;
}

static inline struct sockaddr_in parse_address(const char *host, const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char *end;
    unsigned long number = strtoul(port, &end, 10);
    if (*end != '\0' || number == 0 || number > UINT16_MAX ||
        inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        fprintf(stderr, "%s: bad address %s %s\n", program_invocation_short_name, host, port);
        exit(2);
    }
    address.sin_port = htons((uint16_t)number);
    return address;
}
