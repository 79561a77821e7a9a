/* The PROXY headers, version 2, in front of UDP visitors' payloads: of the first one that goes out
 * on a data channel, or of each (proxy_protocol_udp).
 *
 * A data channel loses nothing, but the client may have to drop what it brings. With `first` the
 * service then never learns who the visitor is. On a new channel the client has new sockets towards
 * the service, so each visitor has a header again. */
#include "lane_priv.h"
#include "proto/proxy_protocol.h"

/* The address that the visitor has sent to: the kernel says which of ours (IP_PKTINFO). */
static struct addr destination_of(const struct lane_visitor *visitor)
{
    struct addr to = visitor->lane->binding->addr;
    const struct udp_local *local = &visitor->route.local;
    if (!IN6_IS_ADDR_UNSPECIFIED(&local->addr)) {
        to = (struct addr){.len = sizeof(to.v6)};
        to.v6.sin6_family = AF_INET6;
        to.v6.sin6_port = htons(addr_port(&visitor->lane->binding->addr));
        to.v6.sin6_addr = local->addr;
    }
    return to;
}

void lane_header_put(struct lane_visitor *visitor, struct datagram_channel *channel,
                     const struct udp_arrival *arrival)
{
    const struct lane *lane = visitor->lane;
    bool always = service_config(lane->service)->proxy_protocol_udp == CONFIG_HEADER_ALWAYS;
    struct udp_arrival rest = *arrival;
    uint8_t header[PROXY_PROTOCOL_MAX];
    size_t size = 0;
    while (always || visitor->header_on != visitor->channel_number) {
        if (size == 0) {
            const struct addr to = destination_of(visitor);
            size = proxy_protocol_encode(2, true, arrival->from, &to, header);
        }
        if (datagram_put_prefaced(channel, &visitor->entry.key, &rest, header, size))
            visitor->header_on = visitor->channel_number;
        if (rest.size <= rest.segment_size)
            return;
        rest.data += rest.segment_size;
        rest.size -= rest.segment_size;
        rest.segment_size = MIN(rest.segment_size, rest.size);
    }
    datagram_put(channel, &visitor->entry.key, &rest);
}
