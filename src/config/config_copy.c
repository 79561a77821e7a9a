#include "config/config_copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "access_priv.h"
#include "config/routes.h"
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

int config_service_copy_to(const struct config_service *service, struct config_service *ret)
{
    *ret = *service;
    ret->name = copy_text(service->name);
    ret->token = copy_text(service->token);
    ret->sni = service->sni != NULL ? copy_text(service->sni) : NULL;
    ret->host = service->host != NULL ? copy_text(service->host) : NULL;
    (void)route_set_use(ret->routes);
    config_access_share(&ret->access);
    config_access_share(&ret->balancers);
    bool has_routes = (ret->sni != NULL) == (service->sni != NULL) &&
                      (ret->host != NULL) == (service->host != NULL);
    if (ret->name != NULL && ret->token != NULL && has_routes)
        return 0;
    config_service_finish(ret);
    return -ENOMEM;
}

void config_service_finish(struct config_service *service)
{
    config_access_finish(&service->access);
    config_access_finish(&service->balancers);
    route_set_drop(service->routes);
    secret_free(service->token);
    free(service->sni);
    free(service->host);
    free(service->name);
    *service = (struct config_service){0};
}

int config_service_copy(const struct config_service *service, const struct config_service **ret)
{
    struct config_service *copy = malloc(sizeof(*copy));
    if (copy == NULL)
        return -ENOMEM;
    if (config_service_copy_to(service, copy) < 0) {
        free(copy);
        return -ENOMEM;
    }
    *ret = copy;
    return 0;
}

void config_service_free(const struct config_service *service)
{
    if (service == NULL)
        return;
    struct config_service *copy = own(service);
    config_service_finish(copy);
    free(copy);
}

/* The texts of a transport, which it owns. */
enum { TRANSPORT_TEXTS = 9 };
static void list_texts(struct config_transport *transport, char **out[static TRANSPORT_TEXTS])
{
    struct config_tls *tls = &transport->tls;
    struct config_proxy *proxy = &transport->proxy;
    char **const texts[TRANSPORT_TEXTS] = {
        &tls->pkcs12,    &tls->pkcs12_password, &tls->certificate,
        &tls->client_ca, &tls->private_key,     &tls->hostname,
        &proxy->user,    &proxy->password,      &tls->trusted_root,
    };
    memcpy(out, texts, sizeof(texts));
}

int config_transport_copy(const struct config_transport *transport, struct config_transport *ret)
{
    char **texts[TRANSPORT_TEXTS];
    bool is_out_of_memory = false;
    *ret = *transport;
    list_texts(ret, texts);
    for (size_t i = 0; i < TRANSPORT_TEXTS; i++) {
        const char *text = *texts[i];
        *texts[i] = text != NULL && !is_out_of_memory ? copy_text(text) : NULL;
        is_out_of_memory |= text != NULL && *texts[i] == NULL;
    }
    if (!is_out_of_memory)
        return 0;
    config_transport_finish(ret);
    return -ENOMEM;
}

void config_transport_finish(struct config_transport *transport)
{
    char **texts[TRANSPORT_TEXTS];
    list_texts(transport, texts);
    for (size_t i = 0; i < TRANSPORT_TEXTS; i++)
        secret_free(*texts[i]);
    keys_wipe(transport, sizeof(*transport));
}

int config_peer_copy(const struct config_peer *peer, const struct config_peer **ret)
{
    struct config_peer *copy = malloc(sizeof(*copy));
    if (copy == NULL)
        return -ENOMEM;
    *copy = *peer;
    if (config_transport_copy(&peer->transport, &copy->transport) < 0) {
        free(copy);
        return -ENOMEM;
    }
    config_access_share(&copy->access);
    copy->default_token = NULL;
    copy->status = NULL;
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
    config_transport_finish(&copy->transport);
    config_access_finish(&copy->access);
    free(copy);
}
