"""What docs/deployment.md says about files and commands is so."""

import re
import shlex
from pathlib import Path

import pytest

from .proxy import DEPLOY

PAGE = (Path(__file__).parents[2] / "docs/deployment.md").read_text()
ENTRY_POINTS = (["-m", "vllm.entrypoints.openai.api_server"], ["-m", "vllm.entrypoints.api_server"])


def served():
    """What commands of the tables hand to `octavo serve`, after the name of the image."""
    commands = re.findall(r"`((?:podman|docker) run [^`]*)`", PAGE)
    for command in commands:
        words = shlex.split(command.replace("$HF_TOKEN", "hf_x").replace("$(id -u)", "1000"))
        image = next((i for i, word in enumerate(words) if word.startswith("octavo:")), None)
        if image is not None:
            yield words[image + 1 :]


def arguments(words):
    """What the image's entry point makes of them."""
    if words[0] == "python3":
        assert words[1:3] in ENTRY_POINTS
        return words[3:]
    words = words[1:] if words[0] == "vllm" else words
    return words[1:] if words[0] == "serve" else words


def test_every_file_of_a_table_is_there():
    named = set(re.findall(r"`(deploy/[\w./-]+)`", PAGE))
    assert {"deploy/compose/compose.yaml", "deploy/kserve/servingruntime.yaml"} <= named
    assert [name for name in sorted(named) if not (DEPLOY.parent / name).exists()] == []


def test_every_folder_of_deploy_is_on_the_page():
    folders = [path.name for path in DEPLOY.iterdir() if path.is_dir() and not path.name.startswith("_")]
    assert [name for name in folders if f"deploy/{name}" not in PAGE] == []


@pytest.mark.parametrize("words", [*served()], ids=" ".join)
def test_the_server_takes_what_stands_behind_the_image(words):
    from octavo.cli.serve import _parser, read_arguments
    from octavo.config import EngineConfig

    config, (spec,) = read_arguments(_parser("octavo serve").parse_args(arguments(words)))
    assert config.port == 8000
    assert spec.options["model"]
    on_cpu = {**spec.options, "device": "cpu"}
    assert EngineConfig.from_options(on_cpu)


def test_enough_commands_are_tried():
    assert len([*served()]) >= 12


def test_who_shares_a_cache_with_the_host_may_write_to_it():
    commands = re.findall(r"`((?:podman|docker) run [^`]* octavo:[^`]*)`", PAGE)
    shared = [command for command in commands if "-v ~/.cache/huggingface:" in command]
    assert len(shared) >= 4
    for command in shared:
        assert ("--user 0 " if command.startswith("podman") else "--user $(id -u):0 ") in command


def test_images_are_built_with_their_health_check():
    pages = [Path(__file__).parents[2] / "docs/images.md", DEPLOY / "Containerfile"]
    text = PAGE + "".join(page.read_text() for page in pages)
    commands = re.findall(r"podman build [^`\n]*deploy/Containerfile", text)
    assert len(commands) >= 5
    assert [command for command in commands if "--format docker" not in command] == []
