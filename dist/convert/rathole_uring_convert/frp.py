"""frps's and frpc's general keys, and how their files become the halves of ours."""

import ipaddress
import re

from . import frp_legacy, frp_notes, sources
from .document import Document, host_port
from .frp_proxies import convert_proxies
from .keys import Keys, Unusable

SERVER_KEYS = ("bindaddr bindport kcpbindport quicbindport proxybindaddr vhosthttpport vhosthttpsport "
               "vhosthttptimeout tcpmuxhttpconnectport subdomainhost custom404page sshtunnelgateway "
               "enableprometheus detailederrorstoclient maxportsperclient userconntimeout allowports "
               "httpplugins natholeanalysisdatareservehours").split()
CLIENT_KEYS = ("serveraddr serverport proxies visitors user clientid natholestunserver dnsserver "
               "loginfailexit start virtualnet featuregates includes store").split()
DEFAULT_PORT = 7000
DEFAULT_HEARTBEAT_S = 30
LEVELS = ("error", "warn", "info", "debug", "trace")


class Source:
    """A file: its general keys, its proxies and visitors (frpc) or plugins (frps)."""

    def __init__(self, file, role):
        self.file, self.role = file, role
        self.keys = Keys(file)
        self.proxies, self.left_out = [], []  # left_out: [(Keys, why)]

    def is_part(self):
        """A file with proxies alone, which another one includes."""
        return self.role == "client" and not self.keys.values


# --- reading ----------------------------------------------------------------------------------------


def read(file):
    text = sources.read_text(file)
    text = sources.fill_templates(file, text)
    if sources.is_ini_of_frp(text):
        return read_ini(file, sources.parse_ini(file, text))
    if text.lstrip().startswith("{"):
        return read_tree(file, sources.parse_json(file, text))
    try:
        tree = sources.parse_toml(file, text)
    except Unusable:
        sources.refuse_yaml(file, text)
        raise
    return read_tree(file, tree)


def read_tree(file, tree):
    names = {name.lower() for name in tree}
    is_server, is_client = names & set(SERVER_KEYS), names & set(CLIENT_KEYS)
    if names & {"server", "client"} and not is_server and not is_client:
        raise Unusable(file, "looks like a file of rathole's: see --from-rathole")
    if bool(is_server) == bool(is_client):
        raise Unusable(file, "is neither frps's file nor frpc's: it has the keys of " +
                       ("both" if is_server else "none"))
    source = Source(file, "server" if is_server else "client")
    for name in list(tree):
        if name.lower() in ("proxies", "visitors", "httpplugins"):
            read_tables(source, name, tree.pop(name))
    source.keys.add_table(tree)
    return source


def read_tables(source, name, tables):
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise Unusable(source.file, f"{name}: expected a list of tables, [[{name}]]")
    for number, table in enumerate(tables, 1):
        label = table.get("name")
        keys = Keys(source.file, f"{name}.{label if isinstance(label, str) and label else number}")
        keys.add_table(table)
        if name.lower() == "proxies":
            source.proxies.append(keys)
        else:
            why = frp_notes.NO_VISITOR if name.lower() == "visitors" else frp_notes.NO_SERVER_PLUGIN
            source.left_out.append((keys, why))


def read_ini(file, sections):
    common = sections.pop("common", {})
    source = Source(file, "server" if frp_legacy.is_server(common) else "client")
    is_server = source.role == "server"
    frp_legacy.add(source.keys, common, frp_legacy.SERVER if is_server else frp_legacy.CLIENT)
    for name, section in sections.items():
        keys = Keys(file, f"[{name}]")
        frp_legacy.add(keys, section, frp_legacy.PROXY)
        if is_server:
            why = frp_notes.NO_SERVER_PLUGIN if name.startswith("plugin.") else frp_notes.OLD_SECTION
            source.left_out.append((keys, why))
        elif keys.peek("role") == "visitor":
            source.left_out.append((keys, frp_notes.NO_VISITOR))
        else:
            keys.add("name", "the section's name", name)
            keys.take("name")
            source.proxies.append(keys)
    return source


# --- both halves ------------------------------------------------------------------------------------


class Pair:
    """What the two halves have to agree on, read before either is written."""

    def __init__(self, server, clients, halves):
        self.server, self.clients, self.halves = server, clients, halves
        self.client = clients[0] if clients else None
        self.hosts = {}  # (kind, name): the service that it leads to
        self.names = {}  # of services: the file where the name stands
        self.transport, self.has_tls = self.choose_transport()

    def of_server(self, path, default=None):
        return self.server.keys.peek(path, default) if self.server else default

    def of_client(self, path, default=None):
        return self.client.keys.peek(path, default) if self.client else default

    def server_has_certificate(self):
        return bool(self.of_server("transport.tls.certFile") and self.of_server("transport.tls.keyFile"))

    def client_wants_tls(self):
        is_off = str(self.of_client("transport.tls.enable", True)).lower() in ("false", "f", "0")
        return not is_off and bool(self.of_client("transport.tls.trustedCaFile")
                                   or self.of_client("transport.tls.certFile"))

    def choose_transport(self):
        """frps takes all transports at one port; here both halves have one."""
        has_tls = self.server_has_certificate() if self.server else self.client_wants_tls()
        protocol = str(self.of_client("transport.protocol", "tcp")).lower()
        if protocol in ("websocket", "wss"):
            return "websocket", has_tls or protocol == "wss"
        return ("tls" if has_tls else "tcp"), has_tls

    def visitors_host(self):
        return str(self.of_server("proxyBindAddr") or self.of_server("bindAddr") or "0.0.0.0")


def sort_files(files):
    """(frps's file or None, [frpc's files])"""
    read_files = [read(file) for file in files]
    servers = [source for source in read_files if source.role == "server"]
    clients = [source for source in read_files if source.role == "client" and not source.is_part()]
    parts = [source for source in read_files if source.is_part()]
    if len(servers) > 1:
        raise Unusable(servers[1].file, "a second file of frps: give one")
    if not clients and parts:
        clients = [parts.pop(0)]
    if parts and len(clients) > 1:
        raise Unusable(parts[0].file, "it has proxies alone: give it with the one file that includes it")
    for part in parts:
        clients[0].proxies += part.proxies
        clients[0].left_out += part.left_out
    return (servers[0] if servers else None), clients


def convert(files, halves):
    server, clients = sort_files(files)
    if len(clients) > 1 and "client" in halves:
        raise Unusable(clients[1].file, "a second file of frpc, whose half is a file of its own: give all "
                       "with --half server, and each of frpc's with --half client")
    document, pair = Document("frp", halves), Pair(server, clients, halves)
    if server:
        convert_server(document, pair, server)
    else:
        make_server(document, pair)
    for client in clients:
        convert_client(document, pair, client)
        convert_proxies(document, pair, client)
    if server and not clients:
        document.note_taken(document.section("server", "server"), server.keys, None, frp_notes.NO_SERVICES)
    return document


def set_token(document, section, keys):
    """The token, or where it is read from. A text that would be read from elsewhere is none."""
    token, path = keys.text("auth.token"), "auth.token"
    kind, file = keys.peek("auth.tokenSource.type"), keys.peek("auth.tokenSource.file.path")
    if not token and kind == "file" and isinstance(file, str):
        keys.use_up(["auth.tokensource.type", "auth.tokensource.file.path"])
        section.set("default_token", f"file:{file}")
        return
    if not token:
        document.note_taken(section, keys, None, frp_notes.NO_TOKEN)
        token = "change-me"
    elif token.startswith(sources.FROM_VARIABLE):
        token = "env:" + token.removeprefix(sources.FROM_VARIABLE)
    elif token.startswith(("file:", "env:")):
        document.note_taken(section, keys, path, frp_notes.OTHER_SECRET.format(token[:token.index(":") + 1]))
    section.set("default_token", token)


def set_log_level(document, section, keys):
    level = keys.text("log.level")
    if level in LEVELS:
        section.set("log_level", level)
    elif level:
        document.note_taken(section, keys, "log.level", frp_notes.NO_LOG_LEVEL)


def set_status(document, pair, keys, side):
    port = keys.peek("webServer.port")
    if port in (None, 0, "0"):
        paths = keys.matching("webServer.*")
        if paths:
            document.note(document.section(side, side), keys, paths, frp_notes.WEB_SERVER_OFF, is_lost=True)
        return
    if len(pair.halves) == 2 and side == "client" and document.has("server", "status"):
        document.note(document.section(side, side), keys, keys.matching("webServer.*"), frp_notes.ONE_STATUS,
                      is_lost=True)
        return
    status = document.section(side, "status")
    host = keys.text("webServer.addr", "127.0.0.1").strip("[]")
    if not keys.peek("webServer.addr"):
        document.note_taken(status, keys, None, frp_notes.NO_STATUS_ADDRESS)
    if not is_address(host):
        document.note_taken(status, keys, "webServer.addr", frp_notes.NO_STATUS_NAME)
        host = "127.0.0.1"
    status.set("bind_addr", host_port(host, keys.port("webServer.port")))
    password = keys.text("webServer.password")
    if password:
        document.note_taken(status, keys, "webServer.password", frp_notes.PASSWORD_IS_TOKEN)
        status.set("token", password)


def is_address(host):
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def set_keepalive(document, keys, path, side):
    seconds = keys.number(path)
    if seconds is not None:
        document.section(side, f"{side}.transport.tcp").set("keepalive_secs", max(seconds, 0))


def set_paths(document, keys, side, names):
    """Files for TLS: {our key: frp's}. They count only with the transport that uses them."""
    for ours, path in names.items():
        value = keys.text(path)
        if value:
            document.section(side, f"{side}.transport.tls").set(ours, value)


def set_transport(document, pair, side, keys, has_tls):
    """has_tls: whether this side of a websocket has TLS below it."""
    if pair.transport != "tcp":
        document.section(side, f"{side}.transport").set("type", pair.transport)
    if pair.transport == "websocket":
        document.section(side, f"{side}.transport.websocket").set("tls", has_tls)
    if not pair.has_tls:
        document.note_taken(document.section(side, side), keys, None, frp_notes.NOT_ENCRYPTED)


def heartbeat_interval_s(pair):
    """For the server, from frpc's file, because here the server sends; None: the default."""
    if not pair.client:
        return None
    keys = pair.client.keys
    interval_s = keys.number("transport.heartbeatInterval")
    timeout_s = keys.number("transport.heartbeatTimeout", 0)
    if interval_s is not None and interval_s <= 0:
        interval_s = None
    if timeout_s > 0 and timeout_s <= (interval_s or DEFAULT_HEARTBEAT_S):
        return max(1, timeout_s // 3)
    return interval_s


# --- the server's half ------------------------------------------------------------------------------


def convert_server(document, pair, source):
    keys, section = source.keys, document.section("server", "server")
    host = keys.text("bindAddr", "0.0.0.0")
    section.set("bind_addr", host_port(host, keys.port("bindPort", DEFAULT_PORT) or DEFAULT_PORT))
    set_token(document, section, keys)
    section.set("heartbeat_interval", heartbeat_interval_s(pair))
    set_log_level(document, section, keys)
    set_allowed_clients(section, keys)
    set_transport(document, pair, "server", keys, pair.server_has_certificate())
    set_paths(document, keys, "server", {"certificate": "transport.tls.certFile",
                                         "private_key": "transport.tls.keyFile",
                                         "client_ca": "transport.tls.trustedCaFile"})
    set_keepalive(document, keys, "transport.tcpKeepalive", "server")
    set_status(document, pair, keys, "server")
    # Their values are in the sections of the services, if there are any.
    if pair.client:
        for path in ("proxyBindAddr", "vhostHTTPPort", "vhostHTTPSPort", "subDomainHost"):
            keys.take(path)
    document.note_rest(section, keys, frp_notes.SERVER + frp_notes.COMMON, frp_notes.UNKNOWN)
    for left_out, why in source.left_out:
        document.note_table(section, left_out, why)


def set_allowed_clients(section, keys):
    allowed = keys.words("allowedClientIPs")
    if allowed:
        section.set("allow", ", ".join(allowed))


def make_server(document, pair):
    """The server's half without frps's file."""
    keys, section = pair.client.keys, document.section("server", "server")
    document.note_taken(section, keys, None, frp_notes.NO_SERVER_FILE)
    port = keys.port("serverPort", DEFAULT_PORT) or DEFAULT_PORT
    section.set("bind_addr", host_port("0.0.0.0", port))
    tokens = Keys(keys.file)
    for path in keys.matching("auth.token auth.tokenSource.*"):
        tokens.add(path, keys.shown[path], keys.values[path])
    set_token(document, section, tokens)
    section.set("heartbeat_interval", heartbeat_interval_s(pair))
    if pair.has_tls:
        document.note_taken(section, keys, None, frp_notes.NO_CERTIFICATE)
    if pair.transport == "websocket":
        set_transport(document, pair, "server", keys, False)
    elif not pair.has_tls:
        document.note_taken(section, keys, None, frp_notes.NOT_ENCRYPTED)


# --- the client's half ------------------------------------------------------------------------------


def convert_client(document, pair, source):
    keys, section = source.keys, document.section("client", "client")
    host = keys.text("serverAddr", "127.0.0.1")
    section.set("remote_addr", host_port(host, keys.port("serverPort", DEFAULT_PORT) or DEFAULT_PORT))
    set_token(document, section, keys)
    set_heartbeat_timeout(document, section, keys)
    timeout_s = keys.number("transport.dialServerTimeout")
    section.set("connect_timeout", timeout_s if timeout_s and timeout_s > 0 else None)
    set_log_level(document, section, keys)
    set_protocol(document, section, keys)
    set_transport(document, pair, "client", keys, pair.has_tls)
    set_client_tls(document, pair, keys)
    set_keepalive(document, keys, "transport.dialServerKeepalive", "client")
    set_proxy(document, section, keys)
    set_status(document, pair, keys, "client")
    keys.words("start")  # convert_proxies obeys it
    document.note_rest(section, keys, frp_notes.CLIENT + frp_notes.COMMON, frp_notes.UNKNOWN)
    for left_out, why in source.left_out:
        document.note_table(section, left_out, why)


def set_heartbeat_timeout(document, section, keys):
    interval_s = keys.number("transport.heartbeatInterval")
    if interval_s is not None and interval_s <= 0:
        document.note_taken(section, keys, "transport.heartbeatInterval", frp_notes.INTERVAL_KEPT)
    timeout_s = keys.number("transport.heartbeatTimeout")
    if timeout_s is not None:
        section.set("heartbeat_timeout", 0 if timeout_s <= 0 else max(timeout_s, 2))


def set_protocol(document, section, keys):
    protocol = keys.text("transport.protocol", "tcp").lower()
    if protocol not in ("tcp", "websocket", "wss"):
        document.note_taken(section, keys, "transport.protocol", frp_notes.NO_PROTOCOL)


def set_client_tls(document, pair, keys):
    has_ca = keys.peek("transport.tls.trustedCaFile")
    set_paths(document, keys, "client", {"trusted_root": "transport.tls.trustedCaFile",
                                         "hostname": "transport.tls.serverName",
                                         "certificate": "transport.tls.certFile",
                                         "private_key": "transport.tls.keyFile"})
    if pair.has_tls:
        keys.take("transport.tls.enable")
        document.section("client", "client.transport.tls").is_needed = True
        if not has_ca:
            document.note_taken(document.section("client", "client"), keys, None, frp_notes.NO_CA)


def set_proxy(document, section, keys):
    url = keys.text("transport.proxyURL")
    if not url:
        return
    if re.match(r"(socks5|http)://.*:\d+/?$", url):
        document.section("client", "client.transport.tcp").set("proxy", url)
    else:
        document.note_taken(section, keys, "transport.proxyURL", frp_notes.NO_NTLM)
