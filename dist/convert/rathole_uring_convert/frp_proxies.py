"""frpc's proxies: each becomes a section in both halves, or a note."""

import re

from . import frp_notes
from .document import Section, host_port
from .keys import Unusable, printable

KIB_BITS, MIB_BITS = 8 << 10, 8 << 20
BANDWIDTH_MIN_BITS, BANDWIDTH_MAX_BITS = 8000, 10**12
# The key that tells services at one address apart, and frps's key for the port.
SHARED = {"http": ("host", "vhostHTTPPort", 80), "https": ("sni", "vhostHTTPSPort", 443)}


def convert_proxies(document, pair, source):
    started = source.keys.words("start")
    names_here = set()
    for keys in source.proxies:
        name = name_of(keys)
        why = reason_to_leave_out(pair, keys, name, started)
        service = service_of(keys)
        if not why and service in names_here:
            why = frp_notes.SAME_GROUP.format(printable(service))
        if why:
            document.note_table(document.section("client", "client"), keys, why)
            continue
        names_here.add(service)
        claim_name(pair, keys, name, service)
        if name.startswith("range:"):
            convert_range(document, pair, keys, name[len("range:"):].strip())
        else:
            convert_service(document, pair, keys, service)


def name_of(keys):
    name = keys.text("name")
    if not name:
        raise Unusable(keys.file, f"{keys.place}: a proxy without a name")
    return name


def service_of(keys):
    """A proxy's service here. The clients of a group serve one."""
    return str(keys.peek("loadBalancer.group") or keys.peek("name"))


def type_of(keys):
    return str(keys.peek("type", "tcp")).lower()


def claim_name(pair, keys, name, service):
    """Here a service has one name for all clients; the clients of a group share one on purpose."""
    other = pair.names.setdefault(service, keys.file)
    if other != keys.file and not keys.peek("loadBalancer.group"):
        raise Unusable(keys.file, f"the proxy {printable(name)} is in {printable(other)} too: a name is one "
                       "service here, so give it another in one of the files")


# --- what is left out -------------------------------------------------------------------------------


def reason_to_leave_out(pair, keys, name, started):
    """Why a proxy has no section, or None."""
    kind = type_of(keys)
    if str(keys.peek("enabled", True)).lower() == "false" or (started and name not in started):
        return frp_notes.NOT_STARTED
    if kind in ("stcp", "sudp", "xtcp"):
        return frp_notes.NO_SECRET_PROXY.format(kind)
    if kind == "tcpmux":
        return frp_notes.NO_TCPMUX
    if kind not in ("tcp", "udp", *SHARED):
        raise keys.wrong("type", "tcp, udp, http, https, stcp, sudp, xtcp or tcpmux")
    return reason_in_plugin(pair, keys, kind) or reason_in_address(pair, keys, kind)


def reason_in_plugin(pair, keys, kind):
    plugin = keys.peek("plugin.type")
    if not plugin or (plugin == "unix_domain_socket" and keys.peek("plugin.unixPath")):
        return None
    if kind in SHARED or not keys.peek("remotePort"):
        return frp_notes.NO_PLUGIN.format(printable(plugin))
    address = host_port(pair.visitors_host(), printable(keys.peek("remotePort")))
    return frp_notes.NO_PLUGIN_PORT.format(printable(plugin), address)


def reason_in_address(pair, keys, kind):
    if kind in ("tcp", "udp") and keys.peek("remotePort") in (None, 0, "0"):
        return frp_notes.NO_RANDOM_PORT
    if keys.peek("localPort") in (None, 0, "0") and not keys.peek("plugin.type"):
        return frp_notes.NO_LOCAL_PORT
    if kind in SHARED:
        hosts = hosts_of(pair, keys)
        if not hosts:
            return frp_notes.NO_HOST
        if not free_hosts(pair, kind, hosts, service_of(keys)):
            return frp_notes.HOSTS_TAKEN
    return None


# --- ranges -----------------------------------------------------------------------------------------


def port_list(keys, path):
    """6010-6020,6022"""
    ports = []
    for part in str(keys.take(path)).split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part, re.A)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 1 <= first <= last <= 65535:
            raise keys.wrong(path, "ports such as 6010-6020,6022")
        ports += range(first, last + 1)
    return ports


def runs_of(pairs):
    """[(first local, first remote, count)]: the longest runs in which both go up by one."""
    runs = []
    for local, remote in pairs:
        if runs and (local, remote) == (runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]):
            runs[-1][2] += 1
        else:
            runs.append([local, remote, 1])
    return runs


def convert_range(document, pair, keys, name):
    local_ports, remote_ports = port_list(keys, "localPort"), port_list(keys, "remotePort")
    if len(local_ports) != len(remote_ports):
        raise keys.wrong("remotePort", "as many ports as localPort has")
    local_host, remote_host = keys.text("localIP", "127.0.0.1"), pair.visitors_host()
    kind = type_of(keys)
    keys.take("type")
    servers, clients = [], []
    for number, (local, remote, count) in enumerate(runs_of(zip(local_ports, remote_ports)), 1):
        sections = range_sections(document, name if number == 1 else f"{name}_{number}", local, remote, count)
        for section, key, host, port in zip(sections, ("bind_addr", "local_addr"), (remote_host, local_host),
                                            (remote, local)):
            if kind == "udp":
                section.set("type", kind)
            last = f"-{port + count - 1}" if count > 1 else ""
            section.set(key, host_port(host, f"{port}{last}"))
        servers.append(sections[0])
        clients.append(sections[1])
    options = Section("server", "")  # the same for all, and the notes once
    set_options(document, keys, options, clients[0], kind)
    servers[0].rows += options.rows
    for server in servers[1:]:
        server.rows += options.settings()


def range_sections(document, name, local, remote, count):
    """The sections of both halves. {port} is the port of its own half, and names have the server's."""
    if count == 1:
        return document.service("server", name), document.service("client", name)
    offset = f"{remote - local:+d}" if remote != local else ""
    return (document.service("server", f"{name}-{{port}}"),
            document.service("client", f"{name}-{{port{offset}}}"))


# --- one service ------------------------------------------------------------------------------------


def convert_service(document, pair, keys, name):
    kind = type_of(keys)
    keys.take("type")
    keys.take("enabled")
    server, client = Section("server", ""), document.service("client", name)
    if kind == "udp":
        server.set("type", kind)
        client.set("type", kind)
    if kind in SHARED:
        set_shared_address(document, pair, keys, server, kind)
    else:
        server.set("bind_addr", host_port(pair.visitors_host(), keys.port("remotePort")))
    client.set("local_addr", local_address(keys))
    set_options(document, keys, server, client, kind)
    add_to_service(document, keys, document.service("server", name), server)


def add_to_service(document, keys, service, wanted):
    """The section may be there already, from another client of the group."""
    settings = service.settings()
    for row in wanted.rows:
        if row in settings:
            continue
        if settings and isinstance(row, str):
            document.note_taken(service, keys, None, frp_notes.OTHER_IN_GROUP.format(row))
        else:
            service.rows.append(row)


def local_address(keys):
    if keys.take("plugin.type") == "unix_domain_socket":
        return f"unix:{keys.text('plugin.unixPath')}"
    return host_port(keys.text("localIP", "127.0.0.1"), keys.port("localPort"))


def hosts_of(pair, keys):
    hosts = [host.lower() for host in keys.words("customDomains")]
    subdomain, domain = keys.text("subdomain"), pair.of_server("subDomainHost")
    if subdomain and domain:
        hosts.append(f"{subdomain}.{domain}".lower())
    return list(dict.fromkeys(hosts))


def free_hosts(pair, kind, hosts, service):
    return [host for host in hosts if pair.hosts.get((kind, host), service) == service]


def set_shared_address(document, pair, keys, server, kind):
    """Services at one address, told apart by the name that a visitor asks for."""
    key, port_key, port_default = SHARED[kind]
    control_port = str(pair.of_server("bindPort", 7000))
    port = pair.of_server(port_key)
    if port in (None, 0, "0") or str(port) == control_port:
        document.note_taken(server, keys, None, frp_notes.NO_VHOST_PORT.format(port_key))
        port = port_default
    server.set("bind_addr", host_port(pair.visitors_host(), port))
    service = service_of(keys)
    hosts = free_hosts(pair, kind, hosts_of(pair, keys), service)
    pair.hosts |= {(kind, host): service for host in hosts}
    names = [host for host in hosts if host != "*"]
    if names:
        server.set(key, ", ".join(names))
    if "*" in hosts:
        server.set("default", True)
    if keys.peek("subdomain") and not pair.of_server("subDomainHost"):
        document.note_taken(server, keys, "subdomain", frp_notes.NO_HOST)


def set_options(document, keys, server, client, kind):
    group = keys.text("loadBalancer.group")
    if group:
        server.set("clients", "balance")
        if group != keys.peek("name"):
            document.note_taken(server, keys, "loadBalancer.group", frp_notes.GROUP_NAME)
    set_bandwidth(document, keys, server)
    version = keys.peek("transport.proxyProtocolVersion")
    if version == "v2" or (version == "v1" and kind != "udp"):
        server.set("proxy_protocol", keys.text("transport.proxyProtocolVersion"))
    for patterns, text, half in frp_notes.PROXY:
        paths = keys.matching(patterns)
        if paths:
            document.note(server if half == "server" else client, keys, paths, text, is_lost=True)
    document.note_rest(client, keys, [], frp_notes.UNKNOWN)


def set_bandwidth(document, keys, server):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(KB|MB)", str(keys.peek("transport.bandwidthLimit", "")))
    bits = int(float(match[1]) * (KIB_BITS if match[2] == "KB" else MIB_BITS)) if match else 0
    if not BANDWIDTH_MIN_BITS <= bits <= BANDWIDTH_MAX_BITS:
        return
    keys.take("transport.bandwidthLimit")
    document.note_taken(server, keys, "transport.bandwidthLimit", frp_notes.BANDWIDTH_WAYS)
    server.set("bandwidth", bits)
