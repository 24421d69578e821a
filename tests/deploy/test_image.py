"""The image that deploy/build_image.py --rootfs made, run by crun as clusters run it.

A random user id with group 0, a root that can't be written, no network but the loopback, 1 GiB of memory by a real
control group, and one volume for all that is written.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import wave
from pathlib import Path

import pytest

BUILT = Path(__file__).parents[2] / "build" / "image"
GIBIBYTE = 1 << 30
# crun knows version 1 and 2 of control groups, but not both at once: it does not see the empty one.
CRUN = ["unshare", "-m", "sh", "-c", 'umount /sys/fs/cgroup/unified 2>/dev/null; exec crun "$@"', "crun"]
ASK = """
import json, urllib.request
body = {"model": "chat", "stream": True, "max_tokens": 400, "min_tokens": 400}
body["messages"] = [{"role": "user", "content": "Count."}]
headers = {"Content-Type": "application/json"}
url = "http://127.0.0.1:8000/v1/chat/completions"
for line in urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)):
    print(line.decode().strip(), flush=True)
"""

pytestmark = [
    pytest.mark.skipif(not (BUILT / "rootfs").is_dir(), reason="there is no build/image/rootfs"),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("crun"), reason="this needs root and crun"),
]


def online(variables):
    """An image with a model inside asks no hub; without this variable it behaves as the others do."""
    return [variable for variable in variables if not variable.startswith("HF_HUB_OFFLINE=")]


class Container:
    """The image with words after its name. Its log is in `log`, its cache volume in `cache`."""

    def __init__(self, folder, *words, models=None, writable=True, memory=GIBIBYTE):
        self.name = f"octavo-test-{random.randrange(1 << 40):x}"
        self.log, self.cache = folder / "log", folder / "cache"
        self.cache.mkdir()
        self.cache.chmod(0o2775)
        image = json.loads((BUILT / "config.json").read_text())
        subprocess.run(["crun", "spec"], cwd=folder, check=True)
        spec = json.loads((folder / "config.json").read_text())
        spec["root"] = {"path": str(BUILT / "rootfs"), "readonly": True}
        self.user = {"uid": random.randrange(100_000, 1 << 30), "gid": 0}
        spec["process"] |= {
            "args": [*image["Entrypoint"], *words],
            "env": online(image["Env"]),
            "cwd": image["WorkingDir"],
        }
        spec["process"] |= {"user": self.user, "terminal": False}
        spec["linux"]["resources"] = {"memory": {"limit": memory, "swap": memory}}
        volumes = [("/cache", self.cache, "rw" if writable else "ro")]
        volumes += [(f"/models/{name}", path, "ro") for name, path in (models or {}).items()]
        for inside, outside, mode in volumes:
            mount = {"destination": inside, "source": str(outside), "type": "bind", "options": ["rbind", mode]}
            spec["mounts"].append(mount)
        (folder / "config.json").write_text(json.dumps(spec))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*CRUN, "run", "--bundle", folder, self.name], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def command(self, *words):
        user = f"--user={self.user['uid']}:0"
        return [*CRUN, "exec", user, "--env", "PATH=/opt/python/bin:/usr/bin:/bin", self.name, *words]

    def run(self, *words):
        """What a program inside says; its exit code is in `returncode`."""
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=300)

    def wait(self):
        """The exit code."""
        return self.process.wait(timeout=300)

    def kill(self, number):
        subprocess.run([*CRUN, "kill", self.name, str(int(number))], check=True)

    def end(self):
        subprocess.run([*CRUN, "delete", "--force", self.name], capture_output=True)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path):
    with contextlib.ExitStack() as stack:

        def begin(*words, **options):
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            container = Container(folder, *words, **options)
            stack.callback(container.end)
            return container

        yield begin


@pytest.fixture
def server(start, real_model):
    """The image's server of the default model, healthy, asked for as vLLM's image is."""
    words = ("--model", "/models/chat.gguf", "--served-model-name", "chat")
    container = start(*words, models={"chat.gguf": real_model})
    healthy = ("python3", "-I", "-S", "/usr/local/bin/healthcheck.py")
    end = time.monotonic() + 300
    while container.run(*healthy).returncode or "ready: " not in container.log.read_text():
        assert container.process.poll() is None, container.log.read_text()
        assert time.monotonic() < end, container.log.read_text()
        time.sleep(0.1)
    return container


def test_a_server_answers_and_ends_with_0_when_its_streams_have_ended(server):
    with subprocess.Popen(server.command("python3", "-c", ASK), stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline().startswith("data: {")
        server.kill(signal.SIGTERM)
        *_, last, _ = client.stdout.read().split("\n\n")
    assert last == "data: [DONE]"
    assert server.wait() == 0


def test_nothing_but_the_cache_can_be_written_and_no_network_be_reached(server):
    owner = server.run("sh", "-c", "stat -c '%u %g' /proc/1").stdout.split()
    assert owner == [str(server.user["uid"]), "0"]
    refused = server.run("sh", "-c", "touch /x /opt/x /usr/x /models/x /etc/x")
    assert refused.stderr.count("Read-only file system") == 5
    assert not server.run("touch", "/cache/x").returncode
    names = server.run("python3", "-c", "import os; print(*os.listdir('/sys/class/net'))").stdout
    assert names.split() == ["lo"]


def test_the_plan_stays_in_the_memory_of_the_container(server):
    free = server.run("python3", "-c", "from octavo.engine.memory import free_memory; print(free_memory())")
    assert 0 < int(free.stdout) < GIBIBYTE
    peak = server.run("sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max")
    assert int(peak.stdout) == GIBIBYTE
    assert server.process.poll() is None


def test_a_model_that_is_larger_than_the_memory_is_refused_in_one_line(start, real_model):
    container = start("serve", "/models/chat.gguf", models={"chat.gguf": real_model}, memory=100 << 20)
    assert container.wait() == 2
    (line,) = [line for line in container.log.read_text().splitlines() if "does not fit" in line]
    assert re.search(r"the model does not fit: weights [\d.]+", line)


def test_speech_is_transcribed(start, whisper_model, tmp_path):
    container = start(
        "transcribe",
        "--model",
        "/models/whisper",
        "/models/tone.wav",
        models={"whisper": whisper_model, "tone.wav": tone(tmp_path / "tone.wav")},
    )
    assert container.wait() == 0, container.log.read_text()


def tone(path):
    """A second of a sound that is no speech."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"\0\10\0\20" * 8000)
    return path


def test_a_cache_that_can_not_be_written_is_one_line_that_names_the_way_out(start):
    container = start("pull", "pypi:no-such-package", writable=False)
    assert container.wait() == 2
    (line,) = container.log.read_text().splitlines()
    assert "/cache" in line
    assert "OCTAVO_CACHE" in line


def test_the_bill_of_materials_has_what_is_inside():
    bill = json.loads((BUILT / "octavo.cdx.json").read_text())
    names = {component["purl"].partition("@")[0] for component in bill["components"]}
    assert names >= {
        "pkg:pypi/octavo",
        "pkg:pypi/numpy",
        "pkg:pypi/av",
        "pkg:deb/debian/libc6",
        "pkg:deb/debian/python3",
    }
    assert "pkg:pypi/pip" not in names
    references = [component["bom-ref"] for component in bill["components"]]
    assert len(references) == len({*references})
