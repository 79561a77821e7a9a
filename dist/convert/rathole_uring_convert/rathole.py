"""rathole's files. Its keys are ours, so most of them pass as they are."""

import re

from . import sources
from .document import Document, host_port
from .keys import Keys, Unusable

UNKNOWN = "not a key of rathole 0.5, which refuses it"
# Keys of later versions and of its forks that this program does not have.
LATER = [
    ("remote_addr", "a client has one server: run a second client with this service and that remote_addr"),
    ("max_clients", "a service has one client, or with clients = balance all that have its token"),
]
NO_USE = "empty, and nothing needs it"
EMPTY_TOKEN = ("it is empty, so anybody could log in: replace change-me on both sides with a long random "
               "text")
SPECIAL_SECRET = ("it begins with {0}, which here means that it is read from there; rathole uses the text "
                  "itself")
BRACKETS = "an IPv6 address stands in brackets"
WEBSOCKET_TLS = "rathole does not start without it; false is no TLS"
CIPHER = ("only 25519, ChaChaPoly and BLAKE2s are here; the keys fit, and the other side needs the same "
          "pattern")
NO_PATTERN = ("only NK, KK and XX with 25519, ChaChaPoly and BLAKE2s are here: choose one of them on both "
              "sides")
NO_TOKEN = ("neither the service nor the half has a token, and rathole refuses that: replace change-me on "
            "both sides with a long random text")

PATTERN_HERE = r"Noise_(NK|KK|XX)_25519_ChaChaPoly_BLAKE2s"
PATTERN_NEAR = r"Noise_(NK|KK|XX)_25519_\w+_\w+"

ROLES = {
    "server": ("bind_addr", "default_token", "heartbeat_interval"),
    "client": ("remote_addr", "default_token", "prefer_ipv6", "heartbeat_timeout", "retry_interval"),
}
TRANSPORT = {
    "": ("type",),
    "tcp": ("nodelay", "keepalive_secs", "keepalive_interval", "proxy"),
    "tls": ("hostname", "trusted_root", "pkcs12", "pkcs12_password"),
    "noise": ("pattern", "local_private_key", "remote_public_key"),
    "websocket": ("tls",),
}
SERVICES = {
    # The last three are of later versions, and are ours as well.
    "server": ("type", "bind_addr", "token", "nodelay", "proxy_protocol", "enable_proxy_protocol",
               "udp_data_channels"),
    "client": ("type", "local_addr", "token", "prefer_ipv6", "nodelay", "retry_interval"),
}
ADDRESSES = ("bind_addr", "remote_addr", "local_addr")
SECRETS = ("default_token", "token", "pkcs12_password", "local_private_key", "remote_public_key", "proxy")


def convert(files, halves):
    document, seen = Document("rathole", halves), {}
    for file in files:
        tree = read(file)
        for role in ("server", "client"):
            if role not in tree:
                continue
            if role in seen:
                raise Unusable(file, f"has a [{role}] as {seen[role]} has: give one of them")
            seen[role] = file
            convert_half(document, file, role, tree.pop(role))
        rest = Keys(file)
        rest.add_table(tree)
        side = "server" if seen.get("server") == file else "client"
        document.note_rest(document.section(side, side), rest, [], UNKNOWN)
    return document


def read(file):
    tree = sources.parse_toml(file, sources.read_text(file))
    if "server" in tree or "client" in tree:
        return tree
    is_frp = {name.lower() for name in tree} & {"bindport", "serveraddr", "serverport", "proxies", "common"}
    raise Unusable(file, "looks like a file of frp's: see --from-frp" if is_frp
                   else "has neither [server] nor [client]")


def take_table(file, tree, name, place):
    table = tree.pop(name, {})
    if not isinstance(table, dict):
        raise Unusable(file, f"{place}: expected a table")
    return table


def convert_half(document, file, role, half):
    if not isinstance(half, dict):
        raise Unusable(file, f"{role}: expected a table")
    services = take_table(file, half, "services", f"{role}.services")
    transport = take_table(file, half, "transport", f"{role}.transport")
    own = Keys(file, role)
    own.add_table(half)
    needs_token = any(isinstance(table, dict) and "token" not in table for table in services.values())
    section = document.section(role, role)
    copy(document, section, own, ROLES[role], needs_token)
    copy_secret_file(section, own, "default_token")
    document.note_rest(section, own, [], UNKNOWN)
    convert_transport(document, file, role, transport)
    for name in services:
        convert_service(document, file, role, name, services[name], own)


def convert_transport(document, file, role, transport):
    keys = Keys(file, f"{role}.transport")
    for part in [part for part in TRANSPORT if part and transport.get(part) == {}]:
        del transport[part]
        # With type = "tls" an empty [client.transport.tls] means the system's root certificates.
        document.section(role, f"{role}.transport.{part}").is_needed = True
    keys.add_table(transport)
    for part, names in TRANSPORT.items():
        prefix = f"{part}." if part else ""
        if any(keys.has(prefix + name) for name in names):
            section = document.section(role, f"{role}.transport" + (f".{part}" if part else ""))
            copy(document, section, keys, names, False, prefix)
    if keys.peek("type") == "websocket" and not keys.has("websocket.tls"):
        section = document.section(role, f"{role}.transport.websocket")
        document.note_taken(section, keys, None, "websocket.tls: " + WEBSOCKET_TLS)
        section.set("tls", False)
    if keys.pending:
        document.note_rest(document.section(role, f"{role}.transport"), keys, [], UNKNOWN)


def convert_service(document, file, role, name, table, own):
    place = f"{role}.services.{name}"
    if not isinstance(table, dict):
        raise Unusable(file, f"{place}: expected a table")
    keys, section = Keys(file, place), document.service(role, name)
    keys.add_table(table)
    copy(document, section, keys, SERVICES[role], True)
    copy_secret_file(section, keys, "token")
    if not any(table.has(name) or table.has(name + "_file")
               for table, name in ((keys, "token"), (own, "default_token"))):
        document.note_taken(section, keys, None, NO_TOKEN)
        section.set("token", "change-me")
    document.note_rest(section, keys, LATER, UNKNOWN)


def copy_secret_file(section, keys, name):
    """token_file = "PATH", in later versions."""
    path = keys.peek(name + "_file")
    if isinstance(path, str) and not keys.has(name):
        keys.take(name + "_file")
        section.set(name, f"file:{path}")


def copy(document, section, keys, names, needs_token, prefix=""):
    """Known keys, in the order of rathole's documentation."""
    for name in names:
        path = prefix + name
        if not keys.has(path):
            continue
        value = keys.values[path.lower()]
        if not isinstance(value, (str, int, bool)):
            raise keys.wrong(path, "a text, a number, true or false")
        if value == "" and name in SECRETS and name != "pkcs12_password":
            copy_empty(document, section, keys, path, name, needs_token)
            continue
        keys.take(path)
        section.set(name, checked(document, section, keys, path, name, value))


def copy_empty(document, section, keys, path, name, needs_token):
    if name in ("token", "default_token") and needs_token:
        keys.take(path)
        document.note_taken(section, keys, path, EMPTY_TOKEN)
        section.set(name, "change-me")
    else:
        document.note(section, keys, [path.lower()], NO_USE, is_lost=True)


def checked(document, section, keys, path, name, value):
    """The value, perhaps in another form, with a note that says so."""
    if name in SECRETS and isinstance(value, str) and re.match("(env|file):", value):
        document.note_taken(section, keys, path, SPECIAL_SECRET.format(value[:value.index(":") + 1]))
    if name in ADDRESSES and isinstance(value, str):
        host, _, port = value.rpartition(":")
        if ":" in host and not host.startswith(("[", "unix")):
            document.note_taken(section, keys, path, BRACKETS)
            return host_port(host, port)
    if name == "pattern" and not re.fullmatch(PATTERN_HERE, str(value)):
        near = re.fullmatch(PATTERN_NEAR, str(value))
        document.note_taken(section, keys, path, CIPHER if near else NO_PATTERN)
        return f"Noise_{near[1]}_25519_ChaChaPoly_BLAKE2s" if near else value
    return value
