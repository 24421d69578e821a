"""What is imported when: start-up time is a promise, and imports are most of it."""

import subprocess
import sys

import pytest

from .processes import ENVIRONMENT

HEAVY = {"numpy", "torch", "transformers", "tokenizers", "huggingface_hub", "jinja2", "tqdm", "safetensors", "rich"}


def imported(code: str, *arguments: str) -> set[str]:
    """Modules that are loaded after `code` has run in a fresh interpreter."""
    code = f"import sys\n{code}\nprint('\\n' + ' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


MAIN = "from octavo.cli.main import main\nassert main(sys.argv[1:]) == 0"


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(flag):
    assert not imported(MAIN, flag) & HEAVY


def test_the_package_imports_nothing_heavy():
    assert not imported("import octavo") & HEAVY


def test_running_a_local_model_needs_neither_torch_nor_the_hub(tiny):
    loaded = imported(MAIN, "run", tiny, "hi", "--max-tokens", "2")
    assert "numpy" in loaded
    assert not loaded & {
        "torch",
        "transformers",
        "huggingface_hub",
        "safetensors",
        "tqdm",
        "requests",
        "httpx",
        "importlib.metadata",
        "octavo.models.gpt2",
        "octavo.prefix_store.store",
        "octavo.engine.disk_cache",
    }


def test_the_first_token_waits_for_no_plan(tiny):
    code = (
        "from octavo.cli import run\nrun._generate = lambda *args, **options: sys.exit()\n"
        "try:\n    run.main(sys.argv[1:])\nexcept SystemExit:\n    pass"
    )
    found = imported(code, tiny, "hi")
    assert "octavo.llm" in found
    assert not any(name.startswith("octavo.plan.") for name in found)


def test_running_without_a_conversation_needs_no_template_engine(tiny):
    assert "jinja2" not in imported(MAIN, "run", tiny, "hi", "--max-tokens", "2", "--no-chat")


@pytest.mark.parametrize("command", [["complete", "x"], ["bench", "serve", "--num-prompts", "2"]])
def test_a_client_of_a_server_loads_no_engine(command, stub_url):
    assert not imported(MAIN, *command, "--url", stub_url) & (HEAVY - {"tqdm"})
