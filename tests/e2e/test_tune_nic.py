"""scripts/tune_nic, on the end of a veth pair in namespaces of the test's own."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAIR = "mount -t sysfs none /sys && ip link add nic0 type veth peer name nic1 && "

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network device")


@pytest.fixture
def tune(tmp_path):
    """tune(line, ...): runs the script with each line's arguments, one after the other, on a new pair. Each
    result is (exit code, output)."""
    def run(*lines):
        script = ROOT / "scripts/tune_nic"
        calls = [f"{script} {line} >{tmp_path}/{n} 2>&1; echo $? >>{tmp_path}/{n}"
                 for n, line in enumerate(lines)]
        argv = ["unshare", "--net", "--mount", "sh", "-c", PAIR + "{ " + "; ".join(calls) + "; }"]
        made = subprocess.run(argv, env=dict(os.environ, STATE_DIR=str(tmp_path)), capture_output=True,
                              text=True, timeout=30)
        assert made.returncode == 0, made.stderr
        outputs = [(tmp_path / str(n)).read_text().splitlines() for n in range(len(lines))]
        return [(int(output[-1]), "\n".join(output[:-1])) for output in outputs]
    return run


def settings(output):
    return [int(line.split()[1]) for line in output.splitlines()[:2]]


def test_defer_and_undo(tune, tmp_path):
    results = tune("nic0", "nic0 defer 50", "nic0", "nic0 defer", "nic0", "nic1", "nic0 undo", "nic0",
                   "nic0 undo")
    codes = [code for code, _ in results]
    assert codes == [0] * 8 + [1]
    outputs = [output for _, output in results]
    assert settings(outputs[0]) == [0, 0]
    assert settings(outputs[2]) == [3, 50_000]
    assert settings(outputs[4]) == [3, 20_000]
    assert "napi_defer_hard_irqs=0 gro_flush_timeout=0" in outputs[4], "of before the first defer"
    assert settings(outputs[5]) == [0, 0], "another device"
    assert settings(outputs[7]) == [0, 0]
    assert "nothing to undo" in outputs[8]
    assert not list(tmp_path.glob("rathole-uring-nic-*"))


@pytest.mark.parametrize("line, complaint", [
    ("nic0 defer 0", "1 to 1000"), ("nic0 defer 1001", "1 to 1000"), ("nic0 defer soon", "1 to 1000"),
    ("nope", "no network device"), ("../net/nic0", "no network device"), ("nic0 undo 3", "tune_nic DEVICE"),
    ("nic0 later", "tune_nic DEVICE"), ("", "tune_nic DEVICE"),
])
def test_what_is_refused(tune, line, complaint):
    (code, output), (_, after) = tune(line, "nic0")
    assert code != 0 and complaint in output
    assert settings(after) == [0, 0]
