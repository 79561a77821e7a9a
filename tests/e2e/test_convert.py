"""dist/convert: frp's and rathole's files as ours. The full files in convert/ have each key that those
programs document; what comes out is given to --check, and pairs of it carry bytes.

No key may be lost silently: each is in a note exactly once, or is one of those that CARRIED lists.
"""

import json
import pathlib
import re
import subprocess
import tomllib

import pytest

import certificates
import ledger
from datagrams import UdpEcho, knock
from harness import BINARIES, OURS, ROOT, TOKEN, free_port, is_listening, wait_until, within
from services import Echo, ping

pytestmark = pytest.mark.ours

CONVERTER = ROOT / "dist" / "convert" / "rathole-uring-convert"
DATA = pathlib.Path(__file__).parent / "convert"
NOTE = re.compile(r"[^:]*: (?:(?P<place>\S+): )?(?P<names>[^:]*?) (?:has|have) no counterpart: .+")
WHOLE = re.compile(r"[^:]*: (?P<place>\S+) \((?P<names>[^)]*)\) has no counterpart: .+")

# Keys of the full files that are in the output, as the TOML files write them.
CARRIED = {
    "frps_full.toml": """bindAddr bindPort proxyBindAddr vhostHTTPPort vhostHTTPSPort subDomainHost
        allowedClientIPs auth.token transport.tcpKeepalive transport.tls.certFile transport.tls.keyFile
        transport.tls.trustedCaFile webServer.addr webServer.port webServer.password log.level""",
    "frpc_full.toml": """serverAddr serverPort auth.token log.level transport.protocol
        transport.dialServerTimeout transport.dialServerKeepalive transport.proxyURL
        transport.heartbeatInterval transport.heartbeatTimeout transport.tls.enable transport.tls.certFile
        transport.tls.keyFile transport.tls.trustedCaFile transport.tls.serverName
        shell.name shell.type shell.enabled shell.localIP shell.localPort shell.remotePort
        shell.transport.bandwidthLimit shell.transport.proxyProtocolVersion shell.loadBalancer.group
        names.name names.type names.localIP names.localPort names.remotePort
        site.name site.type site.localPort site.customDomains site.subdomain
        shop.name shop.type shop.localPort shop.customDomains shop.transport.proxyProtocolVersion
        docker.name docker.type docker.remotePort docker.plugin.type docker.plugin.unixPath""",
}


def convert(*files, origin="frp", half=None, env=None):
    """(exit code, output, lines of standard error)"""
    argv = [CONVERTER, f"--from-{origin}", *files] + (["--half", half] if half else [])
    result = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=30, env=env,
                            cwd=files[0].parent if files else None)
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stdout, result.stderr.splitlines()


def put(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def converted(tmp_path, *texts, origin="frp", half=None):
    """What texts of files become: (settings without notes, lines of standard error)"""
    files = [put(tmp_path / f"given{number}", text) for number, text in enumerate(texts)]
    code, out, said = convert(*files, origin=origin, half=half)
    assert code == 0, said
    return settings_of(out), said


def settings_of(text):
    """Without comments and without empty lines between sections."""
    return "\n".join(line for line in text.splitlines() if line and not line.startswith(";"))


def check(path, text, *flags):
    """The errors of --check, without its warnings."""
    put(path, text)
    result = subprocess.run([BINARIES[OURS], "--check", *flags, path], capture_output=True, text=True,
                            timeout=30, cwd=path.parent)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert (result.returncode == 0) == (lines == []), result.stderr
    return lines


def names_are_known(tmp_path):
    """Whether our program takes services that share an address, told apart by name."""
    return check(tmp_path / "probe.ini", "[server]\nbind_addr = 127.0.0.1:2333\ndefault_token = x\n"
                 "[server.services.a]\nbind_addr = 127.0.0.1:80\nhost = a.example, *.b.example\n"
                 "[server.services.b]\nbind_addr = 127.0.0.1:443\nsni = a.example\n") == []


def check_all(tmp_path, text):
    """--check takes all of it; services with `host` or `sni` are left out, out loud, where the program does
    not know these keys."""
    path, is_known = tmp_path / "out.ini", names_are_known(tmp_path)
    if not is_known:
        blocks = re.split(r"\n(?=\[)", text)
        text = "\n".join(block for block in blocks if not re.search(r"^(host|sni|default) =", block, re.M))
    assert check(path, text) == []
    if not is_known:
        pytest.skip("THE PROGRAM DOES NOT KNOW host AND sni: the http and https services were not checked")


@pytest.fixture
def files_of_tls(tmp_path):
    """The files that the full files name, beside the output."""
    own = certificates.identity("localhost")
    for name in ("tunnels", "cabin"):
        (tmp_path / f"{name}.crt").write_bytes(own.certificate_path.read_bytes())
        (tmp_path / f"{name}.key").write_bytes(own.key_path.read_bytes())
        (tmp_path / f"{name}.key").chmod(0o600)
    (tmp_path / "authority.crt").write_bytes(certificates.authority().path.read_bytes())
    (tmp_path / "tunnels.pfx").write_bytes(own.pkcs12("aes", "SECRET-of-file").read_bytes())
    return tmp_path


# --- the full files ---------------------------------------------------------------------------------

FULL = {
    "toml": ("frps_full.toml", "frpc_full.toml"),
    "ini": ("frps_full.ini", "frpc_full.ini"),
    "frps alone": ("frps_full.toml",),
    "frpc alone": ("frpc_full.toml",),
    "old frps alone": ("frps_full.ini",),
    "old frpc alone": ("frpc_full.ini",),
}


@pytest.mark.parametrize("names", FULL.values(), ids=FULL)
def test_full_files_of_frp_are_accepted(names, files_of_tls):
    code, out, said = convert(*(DATA / name for name in names))
    assert code == 0 and not [line for line in said if "this program knows" in line]
    check_all(files_of_tls, out)


def test_full_file_of_rathole_is_accepted(files_of_tls):
    code, out, said = convert(DATA / "rathole_full.toml", origin="rathole")
    assert (code, said) == (0, [])
    assert check(files_of_tls / "out.ini", out) == []


def test_each_value_of_rathole_is_carried_over():
    tree, found, section = tomllib.loads((DATA / "rathole_full.toml").read_text()), {}, None
    for line in settings_of(convert(DATA / "rathole_full.toml", origin="rathole")[1]).splitlines():
        if line.startswith("["):
            section = line[1:-1].replace('"', "")
        else:
            key, _, value = line.partition(" = ")
            found[f"{section}.{key}"] = value
    assert found == {path: json.dumps(value).strip('"') for path, value in values(tree)}


def values(tree, prefix=""):
    """(path, value) of each key"""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from values(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def keys_of(tree):
    """The path of each key; those of a list of tables with the table's name in front."""
    for path, value in values(tree):
        if path in ("proxies", "visitors", "httpPlugins"):
            for table in value:
                yield from (f"{table['name']}.{below}" for below, _ in values(table))
        else:
            yield path


def noted_keys(lines):
    """The keys of all notes about lost ones, a proxy's with its name in front."""
    found = []
    for line in lines:
        whole = WHOLE.fullmatch(line)
        match = whole or NOTE.fullmatch(line)
        if match:
            place = (match["place"] or "").partition(".")[2]
            names = match["names"].split(", ")
            if whole and whole["place"].startswith("proxies."):
                names.append("name")  # it stands in front
            found += [f"{place}.{name}" if place else name for name in names]
    return found


@pytest.mark.parametrize("name", CARRIED)
def test_each_key_is_carried_over_or_noted_once(name):
    file = DATA / name
    lines = [line for line in convert(DATA / "frps_full.toml", DATA / "frpc_full.toml")[2]
             if line.startswith(f"{file}:")]
    noted = noted_keys(lines)
    assert sorted(noted) == sorted(set(noted)), "a key is in two notes"
    given = set(keys_of(tomllib.loads(file.read_text())))
    assert given - set(noted) == set(CARRIED[name].split())
    assert set(noted) <= given


@pytest.mark.parametrize("name", ["frps_full.ini", "frpc_full.ini"])
def test_each_key_of_an_old_file_is_known(name):
    """Every key is in a note, or in the table of those with another name; none is unknown."""
    text = (DATA / name).read_text()
    said = "\n".join(convert(DATA / "frps_full.ini", DATA / "frpc_full.ini")[2])
    assert "this program knows" not in said
    for key in set(re.findall(r"(?m)^\s*(plugin_\w+|oidc_\w+|health_\w+|meta_\w+|quic_\w+)", text)):
        assert re.search(rf"\b{key}\b", said) or key == "plugin_unix_path"


def test_no_secret_is_said():
    for origin, names in (("frp", FULL["toml"]), ("frp", FULL["ini"]), ("rathole", ["rathole_full.toml"])):
        _, out, said = convert(*(DATA / name for name in names), origin=origin)
        assert "SECRET" not in "\n".join(said)
        assert "SECRET" not in "\n".join(line for line in out.splitlines() if line.startswith(";"))
        assert out.count("SECRET") > 3


UNKNOWN = {
    "general": 'newKey = "SECRET"\n{client}',
    "auth": '{client}auth.newKey = "SECRET"\n',
    "transport": '{client}transport.tls.newKey = "SECRET"\n',
    "proxy": '{client}{proxy}newKey = "SECRET"\n',
    "below a proxy": '{client}{proxy}healthCheck_.newKey = "SECRET"\n',
    "server": '{server}newKey = "SECRET"\n',
    "old": "[common]\nbind_port = 7000\nnewKey = SECRET\n",
    "old proxy": "[common]\nserver_addr = h\n[a]\nlocal_port = 1\nremote_port = 2\nnewKey = SECRET\n",
}


@pytest.mark.parametrize("text", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_key_is_noted_once(text, tmp_path):
    _, said = converted(tmp_path, text.format(client=FRPC, server=FRPS, proxy=SSH))
    lines = [line for line in said if "newKey" in line]
    assert len(lines) == 1 and "newKey has no counterpart: not a key that this program knows" in lines[0]


@pytest.mark.parametrize("place", ["server", "server.transport", "client.services.shell"])
def test_unknown_key_of_rathole_is_noted_once(place, tmp_path):
    text = (DATA / "rathole_full.toml").read_text().replace(f"[{place}]", f'[{place}]\nnewKey = "SECRET"')
    _, said = converted(tmp_path, text, origin="rathole")
    assert [line.partition("given0: ")[2] for line in said] == [
        f"{place}: newKey has no counterpart: not a key of rathole 0.5, which refuses it"]


# --- small cases --------------------------------------------------------------------------------------

FRPS = 'bindPort = 7000\nauth.token = "long"\n'
FRPC = 'serverAddr = "vps.example"\nserverPort = 7000\nauth.token = "long"\n'
SSH = '[[proxies]]\nname = "ssh"\ntype = "tcp"\nlocalPort = 22\nremotePort = 6001\n'
SERVER = "[server]\nbind_addr = 0.0.0.0:7000\ndefault_token = long\n"
CLIENT = "[client]\nremote_addr = vps.example:7000\ndefault_token = long\n"
SSH_SERVER = "[server.services.ssh]\nbind_addr = 0.0.0.0:6001\n"
SSH_CLIENT = "[client.services.ssh]\nlocal_addr = 127.0.0.1:22"


def test_pair_of_frp(tmp_path):
    out, said = converted(tmp_path, FRPS, FRPC + SSH)
    assert out == SERVER + SSH_SERVER + CLIENT + SSH_CLIENT
    assert all("not encrypted" in line for line in said) and len(said) == 2
    assert converted(tmp_path, FRPS, FRPC + SSH, half="server")[0] == (SERVER + SSH_SERVER).strip()
    assert converted(tmp_path, FRPS, FRPC + SSH, half="client")[0] == CLIENT + SSH_CLIENT


def test_client_of_frp_alone_names_the_server_s_sections(tmp_path):
    out, said = converted(tmp_path, FRPC + SSH)
    assert out == SERVER + SSH_SERVER + CLIENT + SSH_CLIENT
    assert any("frps's file was not given" in line for line in said)


def test_json_and_old_ini_are_the_same(tmp_path):
    tree = tomllib.loads(FRPC + SSH)
    ini = ("[common]\nserver_addr = vps.example\nserver_port = 7000\ntoken = long\n"
           "[ssh]\ntype = tcp\nlocal_port = 22\nremote_port = 6001\n")
    expected = converted(tmp_path, FRPS, FRPC + SSH)[0]
    assert converted(tmp_path, json.dumps({"bindPort": 7000, "auth": {"token": "long"}}),
                     json.dumps(tree))[0] == expected
    assert converted(tmp_path, "[common]\nbind_port = 7000\ntoken = long\n", ini)[0] == expected


# (lines of the proxy, the server's section, the client's)
PROXIES = {
    "udp": ('type = "udp"\nlocalIP = "192.0.2.1"\nlocalPort = 53\nremotePort = 6053',
            "type = udp\nbind_addr = 0.0.0.0:6053", "type = udp\nlocal_addr = 192.0.2.1:53"),
    "ipv6": ('type = "tcp"\nlocalIP = "::1"\nlocalPort = 22\nremotePort = 6022',
             "bind_addr = 0.0.0.0:6022", "local_addr = [::1]:22"),
    "limits": ('type = "tcp"\nlocalPort = 22\nremotePort = 6022\ntransport.bandwidthLimit = "2MB"\n'
               'transport.proxyProtocolVersion = "v2"',
               "bind_addr = 0.0.0.0:6022\nbandwidth = 16777216\nproxy_protocol = v2",
               "local_addr = 127.0.0.1:22"),
    "unix": ('type = "tcp"\nremotePort = 6022\n'
             'plugin = { type = "unix_domain_socket", unixPath = "/run/a b" }',
             "bind_addr = 0.0.0.0:6022", 'local_addr = "unix:/run/a b"'),
    "http": ('type = "http"\nlocalPort = 80\ncustomDomains = ["A.example", "*.b.example"]\nsubdomain = "c"',
             "bind_addr = 0.0.0.0:8080\nhost = a.example, *.b.example, c.d.example",
             "local_addr = 127.0.0.1:80"),
    "https": ('type = "https"\nlocalPort = 443\ncustomDomains = ["a.example"]',
              "bind_addr = 0.0.0.0:8443\nsni = a.example", "local_addr = 127.0.0.1:443"),
    "the rest": ('type = "https"\nlocalPort = 443\ncustomDomains = ["*"]',
                 "bind_addr = 0.0.0.0:8443\ndefault = true", "local_addr = 127.0.0.1:443"),
}


@pytest.mark.parametrize("proxy, server, client", PROXIES.values(), ids=PROXIES)
def test_proxy(proxy, server, client, tmp_path):
    frps = FRPS + 'vhostHTTPPort = 8080\nvhostHTTPSPort = 8443\nsubDomainHost = "d.example"\n'
    out, _ = converted(tmp_path, frps, FRPC + f'[[proxies]]\nname = "a"\n{proxy}\n')
    assert out == f"{SERVER}[server.services.a]\n{server}\n{CLIENT}[client.services.a]\n{client}"


LEFT_OUT = {
    "any port": ('type = "tcp"\nlocalPort = 22', "a port of your choice"),
    "no local port": ('type = "tcp"\nremotePort = 6022', "no localPort"),
    "disabled": ('type = "tcp"\nlocalPort = 22\nremotePort = 6022\nenabled = false', "does not start it"),
    "stcp": ('type = "stcp"\nlocalPort = 22\nsecretKey = "SECRET"', "no stcp proxy"),
    "tcpmux": ('type = "tcpmux"\nlocalPort = 22\ncustomDomains = ["a.example"]', "HTTP CONNECT"),
    "plugin": ('type = "tcp"\nremotePort = 6022\nplugin.type = "socks5"', "bind_addr = 0.0.0.0:6022"),
    "no name": ('type = "http"\nlocalPort = 80\nsubdomain = "a"', "subDomainHost"),
}


@pytest.mark.parametrize("proxy, why", LEFT_OUT.values(), ids=LEFT_OUT)
def test_proxy_without_counterpart(proxy, why, tmp_path):
    out, said = converted(tmp_path, FRPS, FRPC + f'[[proxies]]\nname = "a"\n{proxy}\n')
    assert out == (SERVER + CLIENT).strip()
    lines = [line for line in said if "proxies.a (" in line]
    assert len(lines) == 1 and why in lines[0]


def test_names_that_two_proxies_have(tmp_path):
    proxy = '[[proxies]]\nname = "{}"\ntype = "https"\nlocalPort = 443\ncustomDomains = ["a.example"{}]\n'
    frps = FRPS + "vhostHTTPSPort = 8443\n"
    out, said = converted(tmp_path, frps, FRPC + proxy.format("a", "") + proxy.format("b", "")
                          + proxy.format("c", ', "c.example"'))
    assert "services.b" not in out and "sni = a.example\n" in out and "sni = c.example\n" in out
    assert any("proxies.b" in line and "another service" in line for line in said)


def test_start_chooses_proxies(tmp_path):
    out, said = converted(tmp_path, FRPS, 'start = ["ssh"]\n' + FRPC + SSH + SSH.replace('"ssh"', '"other"'))
    assert out == SERVER + SSH_SERVER + CLIENT + SSH_CLIENT
    assert any("proxies.other" in line and "does not start it" in line for line in said)


def test_group_is_one_service(tmp_path):
    member = ('[[proxies]]\nname = "{}"\ntype = "tcp"\nlocalPort = {}\nremotePort = 6001\n'
              'loadBalancer.group = "all"\n')
    files = [put(tmp_path / name, text) for name, text in (
        ("s", FRPS), ("a", FRPC + member.format("one", 22) + member.format("two", 23)),
        ("b", FRPC + member.format("three", 24)))]
    code, out, said = convert(*files, half="server")
    assert code == 0
    assert settings_of(out) == SERVER + "[server.services.all]\nbind_addr = 0.0.0.0:6001\nclients = balance"
    assert settings_of(convert(*files[:2], half="client")[1]) == (
        CLIENT + "[client.services.all]\nlocal_addr = 127.0.0.1:22")
    assert any("proxies.two" in line and "second client" in line
               for line in convert(*files[:2], half="client")[2])


def test_ranges_of_old_files(tmp_path):
    out, _ = converted(tmp_path, "[common]\nserver_addr = h\ntoken = long\n[range:g]\ntype = tcp\n"
                       "local_port = 7000-7002,80\nremote_port = 6000-6002,6080\n")
    assert out.partition("[server.services")[2].partition("[client]")[0] == (
        '."g-{port}"]\nbind_addr = 0.0.0.0:6000-6002\n[server.services.g_2]\nbind_addr = 0.0.0.0:6080\n')
    assert '[client.services."g-{port-1000}"]\nlocal_addr = 127.0.0.1:7000-7002\n' in out
    assert check(tmp_path / "out.ini", out) == []


def test_files_that_are_included(tmp_path):
    assert converted(tmp_path, FRPS, FRPC, SSH)[0] == SERVER + SSH_SERVER + CLIENT + SSH_CLIENT


def test_tokens(tmp_path):
    """From a file, from a variable of the environment, none at all, and one that would be read as a file."""
    file = 'auth.tokenSource = { type = "file", file = { path = "/etc/token" } }\n'
    assert "default_token = file:/etc/token" in converted(tmp_path, "bindPort = 7000\n" + file)[0]
    variable = 'bindPort = 7000\nauth.token = "{{ .Envs.TOKEN }}"\n'
    assert "default_token = env:TOKEN" in converted(tmp_path, variable)[0]
    out, said = converted(tmp_path, "bindPort = 7000\n")
    assert "default_token = change-me" in out and any("auth.token" in line for line in said)
    for kind in ("file:", "env:"):
        _, said = converted(tmp_path, f'bindPort = 7000\nauth.token = "{kind}x"\n')
        assert any(f"begins with {kind}" in line for line in said)
    odd = 'a;b # "c"\\\n\u00e9'
    out, _ = converted(tmp_path, f"bindPort = 7000\nauth.token = {json.dumps(odd)}\n")
    assert tomllib.loads(out.splitlines()[2])["default_token"] == odd
    assert check(tmp_path / "out.ini", out) == []


def test_values_from_the_environment(tmp_path):
    file = put(tmp_path / "frpc.toml", FRPC.replace("7000", "{{ .Envs.PORT }}"))
    assert "vps.example:7123" in convert(file, env={"PORT": "7123"})[1]
    assert convert(file, env={})[::2] == (1, [
        f"rathole-uring-convert: {file}:2: PORT is not set: frp takes this value from the environment"])


def test_heartbeats_fit_each_other(tmp_path):
    """The client's timeout stays above the server's interval."""
    out, _ = converted(tmp_path, FRPS, FRPC + "transport.heartbeatTimeout = 12\n")
    assert "heartbeat_interval = 4\n" in out and "heartbeat_timeout = 12" in out
    out, _ = converted(tmp_path, FRPS, FRPC + "transport.heartbeatTimeout = -1\n"
                       "transport.heartbeatInterval = -1\n")
    assert "heartbeat_interval" not in out and "heartbeat_timeout = 0" in out


def test_status_page_of_frp(tmp_path):
    """One [status] in a file of both halves, and addresses in it, not names."""
    page = 'webServer = {{ addr = "{}", port = {}, user = "u", password = "long" }}\n'
    frps, frpc = FRPS + page.format("127.0.0.1", 7500), FRPC + page.format("localhost", 7400)
    out, said = converted(tmp_path, frps, frpc)
    assert out.count("[status]") == 1 and "[status]\nbind_addr = 127.0.0.1:7500\ntoken = long" in out
    assert any("webServer.port" in line and "--half" in line for line in said)
    out, said = converted(tmp_path, frps, frpc, half="client")
    assert "[status]\nbind_addr = 127.0.0.1:7400\ntoken = long" in out
    assert any("webServer.addr: names are not looked up" in line for line in said)
    assert check(tmp_path / "out.ini", out) == []


def test_tls_of_frp(tmp_path, files_of_tls):
    """The server's certificate decides: then both halves have TLS, and without one neither has."""
    frps = FRPS + 'transport.tls = { certFile = "tunnels.crt", keyFile = "tunnels.key" }\n'
    out, said = converted(tmp_path, frps, FRPC)
    assert out.count("type = tls") == 2 and "[client.transport.tls]" in out
    assert any("trusted_root" in line for line in said)
    assert check(tmp_path / "out.ini", out) == []
    out, said = converted(tmp_path, FRPC + 'transport.tls.trustedCaFile = "authority.crt"\n')
    assert out.count("type = tls") == 1 and any("transport.tls.private_key" in line for line in said)
    out, _ = converted(tmp_path, FRPS, FRPC + 'transport.protocol = "websocket"\n')
    assert out.count("type = websocket") == 2 and out.count("tls = false") == 2
    assert check(tmp_path / "out.ini", out) == []


RATHOLE = {
    "ipv6": ('[server]\nbind_addr = ":::2333"\n', "bind_addr = [::]:2333", "brackets"),
    "cipher": ('[server]\nbind_addr = "h:1"\ntransport.type = "noise"\n'
               'transport.noise.pattern = "Noise_XX_25519_AESGCM_SHA256"\n',
               "pattern = Noise_XX_25519_ChaChaPoly_BLAKE2s", "the keys fit"),
    "pattern": ('[server]\nbind_addr = "h:1"\ntransport.noise.pattern = "Noise_IK_448_AESGCM_SHA256"\n',
                "pattern = Noise_IK_448_AESGCM_SHA256", "choose one"),
    "empty token": ('[server]\nbind_addr = "h:1"\n[server.services.a]\nbind_addr = "h:2"\ntoken = ""\n',
                    "token = change-me", "anybody"),
    "no token": ('[server]\nbind_addr = "h:1"\n[server.services.a]\nbind_addr = "h:2"\n',
                 "token = change-me", "refuses"),
    "env:": ('[client]\nremote_addr = "h:1"\ndefault_token = "env:SECRET"\n', "default_token = env:SECRET",
             "begins with env:"),
    "another server": ('[client]\nremote_addr = "h:1"\n[client.services.a]\nlocal_addr = "h:2"\ntoken = "t"\n'
                       'remote_addr = "i:1"\n', "local_addr = h:2", "second client"),
    "token_file": ('[client]\nremote_addr = "h:1"\ndefault_token_file = "/t"\n',
                   "default_token = file:/t", None),
    "tls": ('[client]\nremote_addr = "h:1"\ntransport = { type = "tls", tls = {} }\n',
            "[client.transport.tls]", None),
}


@pytest.mark.parametrize("text, expected, why", RATHOLE.values(), ids=RATHOLE)
def test_what_rathole_reads_otherwise(text, expected, why, tmp_path):
    out, said = converted(tmp_path, text, origin="rathole")
    assert expected in out.splitlines()
    assert [why in line for line in said] == ([True] if why else [])
    assert "SECRET" not in "\n".join(said)


def test_halves_of_rathole_in_two_files(tmp_path):
    server = '[server]\nbind_addr = "h:1"\ndefault_token = "t"\n'
    client = '[client]\nremote_addr = "h:1"\ndefault_token = "t"\n'
    out, said = converted(tmp_path, client, server, origin="rathole")
    assert said == [] and out == ("[server]\nbind_addr = h:1\ndefault_token = t\n"
                                  "[client]\nremote_addr = h:1\ndefault_token = t")


# --- what is refused ----------------------------------------------------------------------------------

BAD = {
    "toml": ("frp", 'bindPort = 1\nauth.token = "SECRET\n', ":2: is not TOML"),
    "json": ("frp", '{"bindPort": 1,\n "auth": SECRET}', ":2: is not JSON"),
    "json twice": ("frp", '{"bindPort": 1, "bindPort": 2}', ": has a key twice"),
    "json list": ("frp", '{"proxies": 3}', ": proxies: expected a list of tables"),
    "ini": ("frp", "[common]\nbind_port = 1\n[a\n", ":3: expected [section] or key = value"),
    "ini without section": ("frp", "token = SECRET\n[common]\nbind_port = 1\n", ":1: a key in front of"),
    "ini twice": ("frp", "[common]\ntoken = SECRET\ntoken = SECRET\n", ":3: a key that stands twice"),
    "ini section twice": ("frp", "[common]\nbind_port = 1\n[common]\n", ":3: a section that stands twice"),
    "yaml": ("frp", "bindPort: 1\nauth:\n  token: SECRET\n", ": YAML is not read here"),
    "template": ("frp", "bindPort = 1\n{{- range $a := .Envs.A }}\n", ":2: a template"),
    "nothing": ("frp", "", ": is neither frps's file nor frpc's"),
    "rathole's": ("frp", '[server]\nbind_addr = "h:1"\n', "--from-rathole"),
    "both roles": ("frp", 'bindPort = 1\nserverAddr = "h"\n', "keys of both"),
    "port": ("frp", "bindPort = 65536\n", ": bindPort: expected a port"),
    "no number": ("frp", 'bindPort = "SECRET"\n', ": bindPort: expected a number"),
    "no text": ("frp", "bindPort = 1\nauth.token = 5\n", ": auth.token: expected a text"),
    "nameless": ("frp", '[[proxies]]\ntype = "tcp"\n', ": proxies.1: a proxy without a name"),
    "type": ("frp", '[[proxies]]\nname = "a"\ntype = "SECRET"\n', ": proxies.a.type: expected tcp, udp"),
    "range": ("frp", "[range:a]\nlocal_port = 1-2\nremote_port = 1-3\n", "as many ports"),
    "frp's": ("rathole", "bindPort = 1\n", "--from-frp"),
    "rathole toml": ("rathole", "[server]\nbind_addr = SECRET\n", ":2: is not TOML"),
    "no half": ("rathole", "[other]\n", ": has neither [server] nor [client]"),
    "no table": ("rathole", "server = 5\n", ": server: expected a table"),
    "no services": ("rathole", "[server]\nservices = 5\n", ": server.services: expected a table"),
    "list": ("rathole", '[server]\nbind_addr = ["SECRET"]\n', ": server.bind_addr: expected"),
    "deep": ("frp", "a = " + "[" * 5000, "nested"),
    "deep json": ("frp", '{"a":' + "[" * 200000, "nested"),
}


@pytest.mark.parametrize("origin, text, complaint", BAD.values(), ids=BAD)
def test_bad_file(origin, text, complaint, tmp_path):
    file = put(tmp_path / "given", text)
    code, out, said = convert(file, origin=origin)
    assert (code, out, len(said)) == (1, "", 1)
    assert said[0].startswith(f"rathole-uring-convert: {file}:") and complaint in said[0]
    assert "SECRET" not in said[0]


def test_file_that_cannot_be_read(tmp_path):
    def said_of(path):
        code, _, said = convert(path)
        assert code == 1 and len(said) == 1
        return said[0].removeprefix(f"rathole-uring-convert: {path}: ")

    assert said_of(tmp_path / "none") == "No such file or directory"
    assert said_of(tmp_path) == "Is a directory"
    (tmp_path / "latin").write_bytes(b"a = 1\nb = '\xe9'\n")
    assert said_of(tmp_path / "latin").endswith(":2: is not text in UTF-8")
    with open(tmp_path / "large", "wb") as large:
        large.truncate(5 << 20)
    assert said_of(tmp_path / "large") == "has more than 4 MiB"


def test_halves_that_are_not_there(tmp_path):
    frps, one, two = (put(tmp_path / name, text) for name, text in
                      (("s", FRPS), ("a", FRPC + SSH), ("b", FRPC + SSH)))
    assert "file of the other end" in convert(frps, half="client")[2][0]
    assert "a second file of frps" in convert(frps, frps)[2][0]
    assert "--half server" in convert(frps, one, two)[2][0]
    assert "a name is one service here" in convert(frps, one, two, half="server")[2][0]


def test_output_that_cannot_be_written(tmp_path):
    file = put(tmp_path / "frps", FRPS)
    with open("/dev/full", "wb") as full:
        result = subprocess.run([CONVERTER, "--from-frp", file], stdout=full, stderr=subprocess.PIPE,
                                text=True, timeout=30)
    assert (result.returncode, result.stderr) == (
        1, "rathole-uring-convert: standard output: No space left on device\n")


@pytest.mark.parametrize("argv", [[], ["--from-frp"], ["--from-frp", "a", "--from-rathole", "b"],
                                  ["--from-frp", "a", "--half", "third"], ["--other"]], ids=" ".join)
def test_usage(argv):
    result = subprocess.run([CONVERTER, *argv], capture_output=True, text=True, timeout=30)
    assert result.returncode == 2 and result.stdout == "" and "usage:" in result.stderr


# --- pairs that carry bytes -------------------------------------------------------------------------


@pytest.fixture
def run_halves(tmp_path, ours):
    """run(origin, *files): both halves, each converted by itself and started."""

    def run(origin, control_port, *files):
        for half in ("server", "client"):
            code, out, said = convert(*files, origin=origin, half=half)
            assert code == 0, said
            ours(f"--{half}", put(tmp_path / f"{half}.ini", out))
            if half == "server":
                wait_until(lambda: is_listening(control_port), within(10), "the server")

    return run


def carry(tcp_port, udp_port):
    wait_until(lambda: is_listening(tcp_port), within(10), "the service's port")
    for _ in range(5):
        ping(tcp_port, b"x" * 10000, timeout=within(15))
    knock(udp_port, timeout=within(15))


@pytest.mark.parametrize("form", ["toml", "ini"])
def test_pair_of_frp_carries_bytes(form, tmp_path, run_halves, service):
    tcp, udp, control = service(Echo), service(UdpEcho), free_port()
    ports = [free_port(), free_port()]
    for port, local in zip(ports, (tcp, udp)):
        ledger.current.note_route(port, local.port)
    services = list(zip(("tcp", "udp"), (tcp.port, udp.port), ports))
    if form == "toml":
        frps = f'bindAddr = "127.0.0.1"\nbindPort = {control}\nauth.token = "{TOKEN}"\n'
        frpc = f'serverAddr = "127.0.0.1"\nserverPort = {control}\nauth.token = "{TOKEN}"\n'
        frpc += "".join(f'[[proxies]]\nname = "{kind}"\ntype = "{kind}"\nlocalPort = {local}\n'
                        f'remotePort = {port}\n' for kind, local, port in services)
    else:
        frps = f"[common]\nbind_addr = 127.0.0.1\nbind_port = {control}\ntoken = {TOKEN}\n"
        frpc = f"[common]\nserver_addr = 127.0.0.1\nserver_port = {control}\ntoken = {TOKEN}\n"
        frpc += "".join(f"[{kind}]\ntype = {kind}\nlocal_port = {local}\nremote_port = {port}\n"
                        for kind, local, port in services)
    run_halves("frp", control, put(tmp_path / "frps", frps), put(tmp_path / "frpc", frpc))
    carry(*ports)


def test_pair_of_rathole_carries_bytes(tmp_path, run_halves, service):
    tcp, udp, control = service(Echo), service(UdpEcho), free_port()
    ports = [free_port(), free_port()]
    for port, local in zip(ports, (tcp, udp)):
        ledger.current.note_route(port, local.port)
    text = "".join(
        f'[{half}]\n{address} = "127.0.0.1:{control}"\ndefault_token = "{TOKEN}"\n'
        f'[{half}.services.one]\n{key} = "127.0.0.1:{numbers[0]}"\n'
        f'[{half}.services."two 2"]\ntype = "udp"\n{key} = "127.0.0.1:{numbers[1]}"\n'
        for half, address, key, numbers in (("server", "bind_addr", "bind_addr", ports),
                                            ("client", "remote_addr", "local_addr", (tcp.port, udp.port))))
    run_halves("rathole", control, put(tmp_path / "both.toml", text))
    carry(*ports)
