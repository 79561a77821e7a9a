"""The configurations that bench/peers.py writes for this program and for rathole."""

import tomllib

import peers
import pytest
from peers import PEERS_BY_NAME

VISITOR, SERVICE = ("127.0.0.1", 7001), ("127.0.0.1", 7002)


def halves(name, directory, **changes):
    """(the server's table, the client's) as the peer's command lines have them."""
    peer = PEERS_BY_NAME[name]
    peer.paths[peer.programs[0]] = "program"
    control = ("127.0.0.1", 7000)
    plan = peers.Plan(str(directory), control, control, VISITOR, SERVICE, **changes)
    server, client = peer.commands(peer, plan)
    found = []
    for role, argv in (("server", server), ("client", client)):
        with open(argv[-1], "rb") as config:
            found.append(tomllib.load(config)[role])
    return found


@pytest.mark.parametrize("name, options, of_service", [
    ("ours-1", {"threads": 1}, {}),
    ("ours-unconfined", {"sandbox": "off"}, {}),
    ("ours-balance", {}, {"clients": "balance"}),
    ("ours-routed", {}, {"host": "127.0.0.1, *.example.com"}),
    ("ours-headed", {}, {"proxy_protocol": "v2"}),
])
def test_a_variant_differs_from_ours_in_its_lines_alone(tmp_path, name, options, of_service):
    server, client = halves(name, tmp_path)
    plain_server, plain_client = halves("ours", tmp_path)
    assert server["services"]["bench"] == plain_server["services"]["bench"] | of_service
    for half, plain in ((server, plain_server), (client, plain_client)):
        del half["services"], plain["services"]
        assert half == plain | options


def test_two_clients_balance():
    several = {peer.name: peer.clients for peer in PEERS_BY_NAME.values() if peer.clients != 1}
    assert several == {"ours-balance": 2}


@pytest.mark.parametrize("name", ["ours", "rathole"])
def test_services_beside_are_at_both_ends(tmp_path, name):
    beside = {"slow": (("127.0.0.1", 7003), ("127.0.0.1", 7004), 'connection_bandwidth = "1M"')}
    server, client = halves(name, tmp_path, beside=beside)
    assert server["services"]["bench"] == {"type": "tcp", "bind_addr": "127.0.0.1:7001"}
    assert server["services"]["slow"] == {"type": "tcp", "bind_addr": "127.0.0.1:7003",
                                          "connection_bandwidth": "1M"}
    assert client["services"] == {"bench": {"type": "tcp", "local_addr": "127.0.0.1:7002"},
                                  "slow": {"type": "tcp", "local_addr": "127.0.0.1:7004"}}


@pytest.mark.parametrize("name, more", [("ours", {"bind": "on_login"}), ("rathole", {})])
def test_each_of_many_services_listens_from_its_login_on(tmp_path, name, more):
    beside = {"many7003": (("127.0.0.1", 7003), SERVICE, "")}
    server, client = halves(name, tmp_path, beside=beside, many=True)
    assert server["services"] == {"bench": {"type": "tcp", "bind_addr": "127.0.0.1:7001"} | more,
                                  "many7003": {"type": "tcp", "bind_addr": "127.0.0.1:7003"} | more}
    assert {service["local_addr"] for service in client["services"].values()} == {"127.0.0.1:7002"}


def test_services_without_a_client_are_at_the_server(tmp_path):
    server, client = halves("ours", tmp_path, logins={"login0": ("127.0.0.1", 7005)})
    assert list(server["services"]) == ["bench", "login0"]
    assert list(client["services"]) == ["bench"]
