#include "config/config_copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "secret_priv.h"

/* Takes const away from a copy, which only its users have to leave unchanged. */
static void *own(const void *constant)
{
    return (void *)(uintptr_t)constant;
}

static char *copy_text(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

int config_service_copy(const struct config_service *service, const struct config_service **ret)
{
    struct config_service *copy = malloc(sizeof(*copy));
    if (copy == NULL)
        return -ENOMEM;
    *copy = *service;
    copy->name = copy_text(service->name);
    copy->token = copy_text(service->token);
    if (copy->name == NULL || copy->token == NULL) {
        config_service_free(copy);
        return -ENOMEM;
    }
    *ret = copy;
    return 0;
}

void config_service_free(const struct config_service *service)
{
    if (service == NULL)
        return;
    secret_free(service->token);
    free(service->name);
    free(own(service));
}

int config_peer_copy(const struct config_peer *peer, const struct config_peer **ret)
{
    struct config_peer *copy = malloc(sizeof(*copy));
    if (copy == NULL)
        return -ENOMEM;
    *copy = *peer;
    copy->default_token = NULL;
    copy->services = NULL;
    copy->service_count = 0;
    *ret = copy;
    return 0;
}

void config_peer_free(const struct config_peer *peer)
{
    if (peer == NULL)
        return;
    struct config_peer *copy = own(peer);
    keys_wipe(&copy->transport.noise, sizeof(copy->transport.noise));
    free(copy);
}
