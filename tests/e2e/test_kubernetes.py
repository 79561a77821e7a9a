"""dist/kubernetes: each object has the fields that Kubernetes' published schemas have and no other, the parts
agree with each other and with the program, nothing runs as root; and the pods' containers serve, by runc,
under exactly these rules."""

import contextlib
import copy
import functools
import re
import signal
import subprocess
import time

import pytest

import ledger
import pods
from harness import BINARIES, OURS, SANITIZED, free_port, wait_until, within
from manifests import (
    KUBERNETES, ROOT, Schemas, fields, misspelt, pod_of, render, title, whole_objects,
)
from pods import PROFILES, SECCOMP, Pod, Volume
from protocol import connect, recv_exact
from services import Echo, answers

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(SANITIZED, reason="about files; what the program does with them is tested elsewhere"),
]

DIRECTORIES = ["base/server", "base/client", "overlays/server-daemonset", "overlays/sidecar-example"]
# The oldest one that has all fields that are used, and the newest one with published schemas.
VERSIONS = ["1.30.0", "1.37.0"]
IMAGE = "localhost/rathole-uring"
README = KUBERNETES / "README.md"


@pytest.fixture(params=DIRECTORIES)
def objects(request):
    return render(KUBERNETES / request.param)


@pytest.fixture(scope="module")
def schemas():
    return functools.cache(Schemas)


def of_kind(objects, *kinds):
    return [each for each in objects if each["kind"] in kinds]


def workload(objects):
    return next(each for each in objects if pod_of(each))


def our_container(objects):
    found = [each for each in pod_of(workload(objects))["containers"] if each["name"] == "rathole-uring"]
    assert len(found) == 1
    return found[0]


def configuration(objects):
    """(name, text) of the one file in the one ConfigMap."""
    config_map, = of_kind(objects, "ConfigMap")
    (name, text), = config_map["data"].items()
    return name, text


def value_of(text, key, section=None):
    """The value of a key, in a section if it is given."""
    if section:
        text = re.search(rf"^\[{re.escape(section)}\]\n(.*?)(?=^\[|\Z)", text, re.M | re.S).group(1)
    return re.search(rf"^{key} = (.*?)\s*$", text, re.M).group(1)


def new_keys():
    """(a private key, its public key)"""
    return re.findall(r"Key:\n(\S+)", subprocess.run(
        [BINARIES[OURS], "--genkey"], capture_output=True, text=True, check=True).stdout)


def port_of(address):
    return int(address.rsplit(":", 1)[1])


# --- the fields ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_rendered_fits_the_schemas(objects, schemas, version):
    for item in objects:
        assert schemas(version).errors(item) == [], title(item)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_stands_in_the_tree_fits_the_schemas(schemas, version):
    """Without kustomize: the base of everything, as `kubectl apply -f` would take it."""
    found = whole_objects()
    assert len(found) > 7
    for path, item in found:
        assert schemas(version).errors(item) == [], path


@pytest.mark.parametrize("version", VERSIONS)
def test_no_field_may_be_misspelt(objects, schemas, version):
    """Shows that the tests above can fail: each field is misspelt in turn, and that is found."""
    count = 0
    for item in objects:
        for path in fields(item):
            assert schemas(version).errors(misspelt(item, path)), f"{title(item)}: {path}"
            count += 1
    assert count > 75


def test_values_of_the_wrong_kind_are_found(objects, schemas):
    item = workload(objects)
    for change in (lambda spec: spec.update(terminationGracePeriodSeconds="90 s"),
                   lambda spec: spec["containers"][0].pop("name"),
                   lambda spec: spec["containers"][0]["ports"].append({"containerPort": "web"}),
                   lambda spec: spec.update(containers={})):
        changed = copy.deepcopy(item)
        for container in pod_of(changed)["containers"]:
            container.setdefault("ports", [])
        change(pod_of(changed))
        assert schemas(VERSIONS[0]).errors(changed)
    unknown = dict(item, apiVersion="apps/v0")
    assert schemas(VERSIONS[0]).errors(unknown) == [f"no such kind: apps/v0 {item['kind']}"]


# --- the parts agree ----------------------------------------------------------------------------


def test_configurations_are_valid(objects, tmp_path):
    """Each key in a ConfigMap is one that the program has. Only the secrets' place is another here."""
    name, text = configuration(objects)
    key = new_keys()[0]
    mount, = [each for each in our_container(objects)["volumeMounts"] if "secrets" in each["mountPath"]]
    secrets = re.findall(rf"file:{mount['mountPath']}/(\w+)", text)
    assert "token" in secrets and len(secrets) == 2
    for secret in secrets:
        (tmp_path / secret).write_text(key)
        (tmp_path / secret).chmod(0o600)
    path = tmp_path / name
    path.write_text(text.replace(mount["mountPath"], str(tmp_path)))
    result = subprocess.run([BINARIES[OURS], "--check", path], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    # Nothing is warned of but the status port without a token, which a NetworkPolicy or the loopback address
    # protects, and that --check does not know the container's user. Names of a cluster are unknown here.
    others = [line for line in result.stderr.splitlines()
              if not re.search(r"there is no status\.token|server\.user|client\.user|cluster\.local", line)]
    assert others == []
    path.write_text(path.read_text().replace("default_token", "default_tokne"))
    assert subprocess.run([BINARIES[OURS], "--check", path], capture_output=True, timeout=30).returncode == 1


def test_files_are_mounted_where_they_are_read(objects):
    name, text = configuration(objects)
    pod, container = pod_of(workload(objects)), our_container(objects)
    places = {each["mountPath"]: each for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    role = re.search(r"^\[(server|client)\]", text, re.M).group(1)
    assert container["args"] == [f"--{role}", f"/etc/rathole-uring/{name}"]
    config_map, = of_kind(objects, "ConfigMap")
    config_volume = volumes[places["/etc/rathole-uring"]["name"]]
    assert config_volume["configMap"]["name"] == config_map["metadata"]["name"]
    secret = volumes[places["/run/secrets/rathole-uring"]["name"]]["secret"]
    assert secret["secretName"] == config_map["metadata"]["name"]
    # A hash in the name would replace the pods at each change; a single file would never be updated.
    assert re.fullmatch(r"rathole-uring-(server|client|sidecar)", config_map["metadata"]["name"])
    assert not any("subPath" in each for each in places.values())
    # Readable for the program's user: by its group, or, without an fsGroup, for all who mount it.
    has_group = "fsGroup" in pod["securityContext"]
    assert secret["defaultMode"] == (0o440 if has_group else 0o444)
    if not has_group:
        mounting = [each["name"] for each in pod["containers"]
                    if any(mount["name"] == places["/run/secrets/rathole-uring"]["name"]
                           for mount in each.get("volumeMounts", []))]
        assert mounting == ["rathole-uring"]


def test_ports_agree(objects):
    _, text = configuration(objects)
    container = our_container(objects)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    is_server = text.lstrip("# ").startswith("[server]") or "\n[server]\n" in text
    expected = {"status": port_of(value_of(text, "bind_addr", "status"))}
    if is_server:
        expected["control"] = port_of(value_of(text, "bind_addr", "server"))
        for service in re.findall(r"^\[server\.services\.(\w+)\]", text, re.M):
            expected[service] = port_of(value_of(text, "bind_addr", f"server.services.{service}"))
    assert {name.removeprefix("tunnel-"): port for name, port in ports.items()} == expected
    for kind in ("readinessProbe", "livenessProbe"):
        if kind in container:
            assert ports[container[kind]["httpGet"]["port"]] == expected["status"]
    assert "livenessProbe" in container
    for service in of_kind(objects, "Service"):
        for each in service["spec"]["ports"]:
            assert each["targetPort"] in ports, title(service)
    for policy in of_kind(objects, "NetworkPolicy"):
        named = [each["port"] for rule in policy["spec"]["ingress"] for each in rule["ports"]]
        assert sorted(named) == sorted(ports)


def test_a_client_knows_the_servers_port():
    _, server = configuration(render(KUBERNETES / "base/server"))
    control = port_of(value_of(server, "bind_addr", "server"))
    service, = [each for each in of_kind(render(KUBERNETES / "base/server"), "Service")
                if each["metadata"]["name"] == "rathole-uring-control"]
    assert [each["port"] for each in service["spec"]["ports"]] == [control]
    for directory in ("base/client", "overlays/sidecar-example"):
        _, text = configuration(render(KUBERNETES / directory))
        address = value_of(text, "remote_addr")
        assert port_of(address) == control and address.split(".")[0] == service["metadata"]["name"]
        assert value_of(text, "servers") == "all"


def test_there_is_time_for_the_drain(objects):
    _, text = configuration(objects)
    pod = pod_of(workload(objects))
    delay = int(value_of(text, "drain_delay")) if "\ndrain_delay" in text else 0
    timeout = int(value_of(text, "drain_timeout"))
    assert pod["terminationGracePeriodSeconds"] >= delay + timeout + 10
    if delay:
        # Readiness fails at once, but must not count while visitors are still accepted (Local traffic).
        probe = our_container(objects)["readinessProbe"]
        assert (probe["failureThreshold"] - 1) * probe["periodSeconds"] >= delay
    for container in pod["containers"]:
        if container["name"] != "rathole-uring":
            seconds = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert timeout <= seconds < pod["terminationGracePeriodSeconds"]


def test_selectors_select_the_pods(objects):
    labels = workload(objects)["spec"]["template"]["metadata"]["labels"]
    selectors = [workload(objects)["spec"]["selector"]["matchLabels"]]
    selectors += [each["spec"]["selector"] for each in of_kind(objects, "Service")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind(objects, "PodDisruptionBudget")]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
    for term in pod_of(workload(objects)).get("affinity", {}).get("podAntiAffinity", {}).get(
            "preferredDuringSchedulingIgnoredDuringExecution", []):
        selectors.append(term["podAffinityTerm"]["labelSelector"]["matchLabels"])
    for selector in selectors:
        assert selector and selector.items() <= labels.items()


def test_clients_find_a_pod_before_it_is_ready():
    """Its readiness is that a client serves "web", and a client finds it in the headless Service."""
    objects = render(KUBERNETES / "base/server")
    _, text = configuration(objects)
    path = our_container(objects)["readinessProbe"]["httpGet"]["path"]
    service = re.fullmatch(r"/readyz\?service=(\w+)", path).group(1)
    assert f"[server.services.{service}]" in text
    control, visitors = sorted(of_kind(objects, "Service"), key=title)
    assert control["spec"]["clusterIP"] == "None" and control["spec"]["publishNotReadyAddresses"]
    assert visitors["spec"]["externalTrafficPolicy"] == "Local"
    assert "publishNotReadyAddresses" not in visitors["spec"]


def test_the_daemonset_has_what_hostnetwork_needs():
    objects = render(KUBERNETES / "overlays/server-daemonset")
    daemonset, = of_kind(objects, "DaemonSet")
    pod = pod_of(daemonset)
    assert pod["hostNetwork"] and pod["dnsPolicy"] == "ClusterFirstWithHostNet" and pod["nodeSelector"]
    assert "replicas" not in daemonset["spec"] and "strategy" not in daemonset["spec"]
    assert not of_kind(objects, "Deployment", "PodDisruptionBudget", "NetworkPolicy")
    # What a policy protects elsewhere is on the loopback address here, and the probes ask there.
    _, text = configuration(objects)
    host = value_of(text, "bind_addr", "status").rsplit(":", 1)[0]
    assert host == "127.0.0.1"
    for kind in ("readinessProbe", "livenessProbe"):
        assert our_container(objects)[kind]["httpGet"]["host"] == host


# --- rights -------------------------------------------------------------------------------------


def test_nothing_runs_as_root(objects):
    pod = pod_of(workload(objects))
    assert not pod["automountServiceAccountToken"]
    assert not pod.get("initContainers") and not pod.get("hostPID") and not pod.get("hostIPC")
    for container in pod["containers"]:
        context = container["securityContext"]
        assert pods.merged(pod, container, "runAsNonRoot") is True
        assert pods.merged(pod, container, "runAsUser") >= 1000
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]} and "privileged" not in context
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]
    assert not any("hostPath" in each for each in pod["volumes"])


def test_the_profile_is_there(objects):
    profile = pods.merged(pod_of(workload(objects)), our_container(objects), "seccompProfile")
    assert profile["type"] == "Localhost"
    assert (SECCOMP / profile["localhostProfile"].removeprefix(PROFILES)).is_file()


def test_the_user_is_the_images(objects):
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "dist" / "container" / "Containerfile").read_text(), re.M)
    pod, container = pod_of(workload(objects)), our_container(objects)
    assert pods.merged(pod, container, "runAsUser") == int(user.group(1))
    assert pods.merged(pod, container, "runAsGroup") == int(user.group(2))


def test_images_are_built_by_the_reader(objects):
    """No name that a cluster would fetch from somebody else's registry; the tag is this version."""
    version = subprocess.run([BINARIES[OURS], "--version"], capture_output=True, text=True,
                             check=True).stdout.split()[1]
    assert our_container(objects)["image"] == f"{IMAGE}:{version}"
    for container in pod_of(workload(objects))["containers"]:
        assert container["image"].startswith("localhost/")
    assert f"-t {IMAGE}:{version}" in README.read_text()


# --- the documents ------------------------------------------------------------------------------


def test_the_example_of_an_overlay(tmp_path, schemas):
    """The overlay in README.md, with an image, a Secret and a configuration of the reader's own."""
    kustomization = re.search(r"```yaml\n(# kustomization.yaml\n.*?)```", README.read_text(), re.S).group(1)
    for directory in ("base", "components", "overlays"):
        (tmp_path / directory).symlink_to(KUBERNETES / directory)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(
        kustomization.replace("../rathole-uring/dist/kubernetes/", "../"))
    for name in ("token", "private_key"):
        (mine / name).write_text("secret")
    (mine / "server.ini").write_text(configuration(render(KUBERNETES / "base/server"))[1])
    objects = render(mine)
    for item in objects:
        assert schemas(VERSIONS[0]).errors(item) == [], title(item)
    secret, = of_kind(objects, "Secret")
    assert sorted(secret["data"]) == ["private_key", "token"]
    # Its name has a hash, which the pod knows: a new token replaces the pods, one after the other.
    volumes = pod_of(workload(objects))["volumes"]
    mounted = [each["secret"]["secretName"] for each in volumes if "secret" in each]
    assert mounted == [secret["metadata"]["name"]]
    assert re.fullmatch(r"rathole-uring-server-\w{10}", secret["metadata"]["name"])
    assert not our_container(objects)["image"].startswith("localhost/")


def test_secrets_are_named_in_the_readme():
    """Each file that a Secret has to have stands in a command that makes it."""
    for directory in DIRECTORIES:
        objects = render(KUBERNETES / directory)
        name = of_kind(objects, "ConfigMap")[0]["metadata"]["name"]
        keys = re.findall(r"file:/run/secrets/rathole-uring/(\w+)", configuration(objects)[1])
        if directory != "overlays/sidecar-example":
            line = re.search(rf"kubectl create secret generic {name} .*", README.read_text()).group(0)
            assert sorted(re.findall(r"--from-file=(\w+)", line)) == sorted(keys)


# --- the containers run -------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path, processes):
    """start(directory, changes) -> a Pod that runs: the container of this kustomization."""
    pods.need_runc()
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        with contextlib.suppress(OSError):
            parent.chmod(0o755)
    made = []

    def make(directory, changes, secrets, is_strict=True, wait=True):
        objects = render(KUBERNETES / directory)
        pod, container = pod_of(workload(objects)), our_container(objects)
        name, text = configuration(objects)
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        role = name.split(".")[0]
        group = pod["securityContext"].get("fsGroup")
        volumes = {}
        for volume in pod["volumes"]:
            place = tmp_path / f"{role}{len(made)}-{volume['name']}"
            if "configMap" in volume:
                volumes[volume["name"]] = config = Volume(place, {name: text}, group=group)
            else:
                volumes[volume["name"]] = Volume(place, secrets, volume["secret"]["defaultMode"], group)
        made.append(Pod(tmp_path, f"{role}{len(made)}", pod, container, volumes, is_strict))
        made[-1].config = config
        processes(made[-1].start(wait), role)
        return made[-1]

    yield make
    complaints = [f"{each.name}: {each.process.verdict()}" for each in made
                  if each.process and each.process.verdict()]
    for each in made:
        each.remove()
    assert not complaints


@pytest.fixture
def keys():
    private, public = new_keys()
    return {"server": {"token": "a-token\n", "private_key": private},
            "client": {"token": "a-token\n", "server_public_key": public}}


@pytest.fixture
def pair(start, keys, service):
    """make(directory of the server, of the client) -> (server, client, {name: port}), not yet ready."""

    def make(server="base/server", client="base/client", **kwargs):
        echo = service(Echo)
        ports = {name: free_port() for name in ("control", "web", "status", "client_status", "more")}
        ledger.current.note_route(ports["web"], echo.port)
        first = start(server, {":2333": f":{ports['control']}", ":8080": f":{ports['web']}",
                               ":9100": f":{ports['status']}", "drain_delay = 15": "drain_delay = 2"},
                      keys["server"], **kwargs)
        text = configuration(render(KUBERNETES / client))[1]
        second = start(client, {
            value_of(text, "remote_addr"): f"127.0.0.1:{ports['control']}",
            value_of(text, "local_addr", "client.services.web"): f"127.0.0.1:{echo.port}",
            ":9100": f":{ports['client_status']}"}, keys["client"], **kwargs)
        return first, second, ports

    return make


@pytest.mark.parametrize("client", ["base/client", "overlays/sidecar-example"])
@pytest.mark.parametrize("server", ["base/server", "overlays/server-daemonset"])
def test_the_pods_serve(pair, server, client):
    """As nobody, without rights, under a profile whose every refusal would kill: a visitor, the probes, the
    counters, a file that is reloaded, and the end with an open visitor."""
    first, second, ports = pair(server, client)
    first.wait_probe("livenessProbe", ports["status"], True, 5)
    first.wait_probe("readinessProbe", ports["status"], True, 15)
    second.wait_probe("livenessProbe", ports["client_status"], True, 5)
    with connect(ports["web"]) as visitor:
        visitor.sendall(b"hello")
        assert recv_exact(visitor, 5) == b"hello"
        first.process.signal(signal.SIGUSR1)
        first.process.wait_log(r"visitors_accepted", within(5))
        since = len(first.process.log())
        first.config.write({name: text + f"\n[server.services.more]\nbind_addr = 127.0.0.1:{ports['more']}\n"
                            for name, text in first.config.files.items()})
        first.process.wait_log(r"reload: services: 1 added", within(5), since)
        first.process.signal(signal.SIGTERM)
        first.wait_probe("readinessProbe", ports["status"], False, 2)
        assert first.probe("livenessProbe", ports["status"]), "a pod that drains is not killed"
        visitor.sendall(b"still")
        assert recv_exact(visitor, 5) == b"still"
    assert first.process.wait(within(10)) == 0
    second.process.signal(signal.SIGTERM)
    assert second.process.wait(within(10)) == 0


def test_a_pod_without_a_client_is_alive_and_not_ready(start, keys):
    ports = {name: free_port() for name in ("control", "web", "status")}
    pod = start("base/server", {":2333": f":{ports['control']}", ":8080": f":{ports['web']}",
                                ":9100": f":{ports['status']}"}, keys["server"])
    pod.wait_probe("livenessProbe", ports["status"], True, 5)
    for _ in range(5):
        assert not pod.probe("readinessProbe", ports["status"])
        time.sleep(0.1)


def test_a_configmap_changes_as_the_kubelet_writes_it(pair):
    """Three updates, each in force within two seconds, read once, with sessions and visitors untouched."""
    first, second, ports = pair()
    first.wait_probe("readinessProbe", ports["status"], True, 15)
    name, text = next(iter(first.config.files.items()))
    with connect(ports["web"]) as visitor:
        for number in range(3):
            port = free_port()
            text += f"\n[server.services.more{number}]\nbind_addr = 127.0.0.1:{port}\n"
            since = len(first.process.log())
            first.config.write({name: text})
            first.process.wait_log(r"reload: services: 1 added", within(2), since)
        visitor.sendall(b"still there")
        assert recv_exact(visitor, 11) == b"still there"
    assert first.process.log().count("reload: ") == 3
    assert "control channel lost" not in second.process.log()
    assert answers(ports["web"])


def test_an_upgrade_in_a_pod(pair):
    """PID 1 stays, and the new program takes over, under the profile."""
    first, _, ports = pair()
    first.wait_probe("readinessProbe", ports["status"], True, 15)
    with connect(ports["web"]) as visitor:
        visitor.sendall(b"before")
        assert recv_exact(visitor, 6) == b"before"
        first.process.signal(signal.SIGUSR2)
        first.process.wait_log(r"serves from here on", within(20))
        wait_until(lambda: answers(ports["web"]), within(10), "a visitor of the new program")
        visitor.sendall(b"after")
        assert recv_exact(visitor, 5) == b"after"


def test_the_profile_as_it_is(pair):
    """What it does not name fails with EPERM, and what is refused on purpose does too."""
    first, _, ports = pair(is_strict=False)
    first.wait_probe("readinessProbe", ports["status"], True, 15)
    assert answers(ports["web"])


def test_a_profile_that_lacks_a_call(start, keys, monkeypatch):
    """Shows that the tests above would find one that is missing."""
    complete = pods.profile_of

    def without(*args):
        profile = complete(*args)
        for rule in profile["syscalls"]:
            rule["names"] = [name for name in rule["names"] if name != "io_uring_setup"] or ["io_uring_enter"]
        return profile

    monkeypatch.setattr(pods, "profile_of", without)
    pod = start("base/server", {f":{port}": f":{free_port()}" for port in (2333, 8080, 9100)}, keys["server"],
                wait=False)
    assert pod.process.wait(within(10)) == 128 + signal.SIGSYS
