"""Compose's files are what its specification allows, and agree with nginx and Prometheus."""

import os
import re
import subprocess

import pytest
import yaml

from .proxy import DEPLOY, require

COMPOSE = DEPLOY / "compose"
FILES = ("compose.yaml", "compose.gpu.yaml")
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def filled(name, **values):
    """A file as compose reads it: variables have their defaults."""
    text = VARIABLE.sub(lambda match: values.get(match[1], match[2] or ""), (COMPOSE / name).read_text())
    return yaml.safe_load(text)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_valid(name):
    compose = pytest.importorskip("compose_spec").PyCompose
    parsed = compose.from_yaml(yaml.safe_dump(filled(name)))
    assert {"octavo-1", "octavo-2"} <= set(parsed.service_names())


def test_a_mistake_is_found():
    compose = pytest.importorskip("compose_spec").PyCompose
    with pytest.raises(ValueError, match="imagine"):
        compose.from_yaml("services: {octavo: {image: octavo, imagine: x}}")


def test_composes_own_client_takes_both(tmp_path):
    docker = require("docker")
    if subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker has no compose")
    command = [docker, "compose", *(part for name in FILES for part in ("-f", COMPOSE / name)), "config", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)})
    assert result.returncode == 0, result.stderr


def test_replicas_are_alike_without_rights_and_have_time_to_drain():
    services = filled("compose.yaml")["services"]
    for name in ("octavo-1", "octavo-2"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["user"].endswith(":0")
        (timeout,) = [int(flag.partition("=")[2]) for flag in service["command"] if "shutdown-timeout" in flag]
        assert int(service["stop_grace_period"].rstrip("s")) >= timeout + 5
    without = {name: {key: value for key, value in services[name].items() if key != "depends_on"} for name in services}
    assert without["octavo-1"] == without["octavo-2"]


def test_every_file_that_is_mounted_is_there():
    for service in filled("compose.yaml")["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith(".") and source != "./models":
                assert (COMPOSE / source).exists(), source


def test_nginx_and_prometheus_know_the_replicas():
    nginx = (COMPOSE / "nginx.conf").read_text()
    (job,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    (targets,) = [each["targets"] for each in job["static_configs"]]
    services = filled("compose.yaml")["services"]
    replicas = sorted(f"{name}:8000" for name in services if name.startswith("octavo-"))
    assert sorted(targets) == sorted(set(re.findall(r"server (octavo-\d:\d+)", nginx))) == replicas
    (published,) = services["nginx"]["ports"]
    assert f"listen {published.rpartition(':')[2]};" in nginx
    (key,) = services["prometheus"]["configs"]
    assert job["authorization"]["credentials_file"] == key["target"]


def test_a_service_that_gets_a_config_can_be_written():
    """Compose copies what has `content` into the container, and refuses one that is read-only."""
    both = filled("compose.yaml")
    written = [name for name, service in both["services"].items() if service.get("configs")]
    assert written == ["prometheus"]
    assert all("content" in config for config in both["configs"].values())
    assert not both["services"]["prometheus"].get("read_only")


@pytest.mark.parametrize("given", [[], ["-f", "a.yaml"]], ids=["none", "files"])
def test_restarts_are_made_where_they_are_asked_for(tmp_path, given):
    """There is the .env with which the replicas were made."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$PWD $*"\n')
    docker.chmod(0o755)
    script = COMPOSE / "rolling-restart.sh"
    command = ["bash", script, *given]
    environment = {**os.environ, "DOCKER": str(docker)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    files = " ".join(given) or f"-f {COMPOSE}/compose.yaml"
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"{tmp_path} compose {files} ") for line in lines)


def test_the_script_that_restarts_is_sound():
    script = COMPOSE / "rolling-restart.sh"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    for name in re.findall(r"octavo-\d", script.read_text()):
        assert name in filled("compose.yaml")["services"]
