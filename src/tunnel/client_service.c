#include "tunnel/client_service.h"

#include <errno.h>
#include <stdlib.h>

int client_service_create(struct service_registry *registry, const struct config_service *config,
                          unsigned int workers, struct client_service **ret)
{
    struct client_service *service = calloc(1, sizeof(*service));
    if (service == NULL)
        return -ENOMEM;
    service->locals = calloc(workers, sizeof(*service->locals));
    if (service->locals == NULL || service_entry_init(&service->entry, config) < 0) {
        free(service->locals);
        free(service);
        return -ENOMEM;
    }
    service->is_udp = config->type == CONFIG_SERVICE_UDP;
    service_registry_add(registry, &service->entry);
    *ret = service;
    return 0;
}

void client_service_free(struct service_entry *entry)
{
    struct client_service *service = client_service_of(entry);
    service_entry_finish(entry);
    free(service->locals);
    free(service);
}
