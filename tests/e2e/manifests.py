"""What dist/kubernetes becomes for a cluster, without one: kustomize renders it, and the published schemas of
Kubernetes say which fields there are."""

import copy
import functools
import json
import os
import pathlib
import shutil
import subprocess
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "dist" / "kubernetes"
CACHE = pathlib.Path(os.environ.get("RATHOLE_URING_CACHE")
                     or pathlib.Path.home() / ".cache" / "rathole-uring")
PACKAGE = "kubernetes_validate/kubernetes-json-schema/v{}-local-strict/"
DEFINITIONS = "/api/_definitions.json#/$defs/"
# Of these the keys are names that users choose, and not fields.
FREE = {"labels", "annotations", "matchLabels", "nodeSelector", "data", "stringData", "selector", "limits",
        "requests"}
NOT_OBJECTS = {"Kustomization", "Component"}  # read by kustomize, unknown to a cluster


def yaml():
    return pytest.importorskip("yaml", reason="no python3-yaml here (scripts/setup test)")


def read(text):
    return [each for each in yaml().safe_load_all(text) if each]


def render(directory):
    """All objects of a kustomization."""
    return copy.deepcopy(_render(directory))


@functools.cache
def _render(directory):
    for argv in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(argv[0]):
            result = subprocess.run([*argv, str(directory)], capture_output=True, text=True, timeout=60)
            assert result.returncode == 0 and not result.stderr, f"{directory}: {result.stderr[-2000:]}"
            return read(result.stdout)
    pytest.skip("neither kubectl nor kustomize here")


def whole_objects():
    """[(file, object)]: those that stand in the tree whole, so that they can be checked without kustomize."""
    found = [(path, each) for path in sorted(KUBERNETES.rglob("*.yaml")) for each in read(path.read_text())
             if isinstance(each, dict) and each["kind"] not in NOT_OBJECTS]
    return [(path, each) for path, each in found if "components" not in path.parts]


def title(item):
    return f"{item['kind']} {item['metadata']['name']}"


def pod_of(item):
    """The pod's spec, of what has one."""
    return item.get("spec", {}).get("template", {}).get("spec")


class Schemas:
    """version: 1.37.0. The schemas are those of the API server's own documentation; unknown fields are
    forbidden."""

    def __init__(self, version):
        jsonschema = pytest.importorskip("jsonschema",
                                         reason="no python3-jsonschema here (scripts/setup test)")
        wheels = sorted((CACHE / "kubernetes").glob("kubernetes_validate-*.whl"))
        if not wheels:
            pytest.skip("no schemas of Kubernetes here (scripts/setup test)")
        with zipfile.ZipFile(wheels[-1]) as archive:
            text = archive.read(PACKAGE.format(version) + "_definitions.json").decode()
        self.definitions = json.loads(text.replace(DEFINITIONS, "#/$defs/"))["$defs"]
        self.names = {}
        for name, definition in self.definitions.items():
            for each in definition.get("x-kubernetes-group-version-kind", []):
                version = f"{each['group']}/{each['version']}".lstrip("/")
                self.names[version, each["kind"]] = name
        self.validator_of = functools.cache(
            lambda name: jsonschema.Draft7Validator({"$ref": f"#/$defs/{name}", "$defs": self.definitions}))

    def errors(self, item):
        """["path: what is wrong"], also for an object that no schema describes."""
        name = self.names.get((item.get("apiVersion"), item.get("kind")))
        if not name:
            return [f"no such kind: {item.get('apiVersion')} {item.get('kind')}"]
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
                for error in self.validator_of(name).iter_errors(item)]


def fields(item, path=()):
    """The path of each field of an object."""
    if isinstance(item, list):
        for number, each in enumerate(item):
            yield from fields(each, (*path, number))
    elif isinstance(item, dict) and not (path and path[-1] in FREE and all(isinstance(each, str)
                                                                           for each in item.values())):
        for key, value in item.items():
            yield (*path, key)
            yield from fields(value, (*path, key))


def misspelt(item, path):
    """A copy of the object in which the field has another name, of the same letters."""
    changed = copy.deepcopy(item)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    key = path[-1]
    holder[key[:-2] + key[-1] + key[-2] if key[-1] != key[-2] else key + "x"] = holder.pop(key)
    return changed
