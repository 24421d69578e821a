"""What the documentation says about the code is true."""

import importlib.util
import re
from pathlib import Path

import pytest

from checkpoints import save_checkpoint, save_tokenizer, transformers_logits
from harness import error, logits_of, random_tokens
from octavo import LLM
from octavo.graph.node import OPS
from octavo.models.registry import ADDED

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("benchmarks/*.md"))]
SOURCES = [path for folder in ("src", "native", "tests") for path in (ROOT / folder).rglob("*")]
READ = re.compile(r"(?:\benviron(?:\.get\(|\[)|\bgetenv\()\s*[\"']([A-Z0-9_]+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SCRIPT = re.compile(r"`(?:python )?((?:[\w-]+/)*[\w-]+\.py)\b[^`]*`")
PATH = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|pyi|cpp|h|md|txt))`")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def variables_read():
    files = [path for path in SOURCES if path.suffix in (".py", ".cpp", ".h")]
    return {name for path in files for name in READ.findall(path.read_text(encoding="utf-8"))}


def test_every_environment_variable_is_on_its_page_and_no_other():
    page = (DOCS / "environment.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert "OCTAVO_NUM_THREADS" in variables_read()
    assert variables_read() <= listed
    assert {name for name in listed if name.startswith("OCTAVO_")} <= variables_read()


def anchors(page):
    """What a heading is called in links: lower case, spaces as dashes, punctuation dropped."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_relative_link_leads_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@each_page
def test_every_file_that_is_named_exists(page):
    """Paths of the repository, or of the package."""
    for name in PATH.findall(page.read_text(encoding="utf-8")):
        assert "/" not in name or any((ROOT / folder / name).exists() for folder in ("", "src/octavo")), name


@each_page
def test_a_command_names_no_script_that_is_not_there(page):
    for name in SCRIPT.findall(page.read_text(encoding="utf-8")):
        found = (ROOT / name).exists() or list((ROOT / "src").rglob(name)) or list((ROOT / "tests").rglob(name))
        assert found, name


@each_page
def test_nothing_is_installed_from_a_package_that_is_not_published(page):
    assert not re.search(r"pip install ['\"]?octavo\b", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["generate_api", "generate_models"])
def test_a_generated_page_is_current(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.PAGE.read_text(encoding="utf-8") == generator.render(), f"run: python docs/{name}.py"


def test_the_page_on_serving_says_what_help_says_about_each_flag():
    from octavo.cli.flag import as_flag
    from octavo.cli.serve import _parser
    from octavo.cli.server_flags import SERVER_FLAGS, SERVER_NOTED, SERVER_REFUSED, SPELLINGS

    page = (DOCS / "serving.md").read_text(encoding="utf-8")
    helps = {name: action.help for action in _parser("octavo serve")._actions for name in action.option_strings}
    rows = dict(
        re.findall(r"^\| `(--[\w-]+)[^`]*` \| (.*?)(?:; the opposite is `--no-[\w-]+`)? \|$", page, re.MULTILINE)
    )
    assert rows == {name: helps[name] for name in rows}
    assert {as_flag(flag.name) for flag in SERVER_FLAGS} | {"--config", "--served-model-name"} <= set(rows)
    for table in (SPELLINGS, SERVER_NOTED, SERVER_REFUSED):
        assert ", ".join(f"`{as_flag(name)}`" for name in sorted(table)) in " ".join(page.split())


def test_the_readme_s_commands_and_example_name_what_exists():
    import octavo
    from octavo.cli.main import COMMANDS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {name.split()[0] for name in re.findall(r"^\| `octavo ([a-z -]+)", readme, re.MULTILINE)} == set(COMMANDS)
    imported = re.search(r"from octavo import (.+)", readme)[1].split(", ")
    assert set(imported) <= set(octavo.__all__)


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_that_is_added_in_the_walk_through_works(tmp_path, monkeypatch, tied, inaugural_text):
    block = re.search(r"```python\n(.*?)```", (DOCS / "add_a_model.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {"__name__": "walk_through"}
    exec(block[1], names)
    monkeypatch.setitem(ADDED, "NanoChatForCausalLM", names["NanoChat"])
    reference = save_checkpoint(tmp_path, "NanoChat", tie_word_embeddings=tied)
    save_tokenizer(tmp_path, inaugural_text, vocab_size=300)
    executor = LLM(str(tmp_path), dtype="float32", max_model_len=64, max_num_seqs=4).model.executor
    tokens = random_tokens(50, vocab=301)
    assert error(logits_of(executor, tokens), transformers_logits(reference, tokens)) < 1e-4


PLUGIN = "examples/plugin/octavo_example"
WALK_THROUGHS = {
    "plugins.md": [f"{PLUGIN}/{module}.py" for module in ("__init__", "model", "rule", "weights")],
    "add_a_logits_rule.md": ["src/octavo/sampling/rules/tokens.py", "native/ops/token_rules.cpp"],
    "add_a_kernel.md": [
        "src/octavo/graph/ops/norm.py",
        "src/octavo/executor/torch/nodes.py",
        "native/ops/norm.cpp",
        "native/kernels/norm.h",
    ],
}


@pytest.mark.parametrize("page", WALK_THROUGHS)
def test_the_code_of_a_walk_through_is_the_one_of_the_source(page):
    blocks = re.findall(r"```(?:python|cpp)\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    for block, source in zip(blocks, WALK_THROUGHS[page], strict=True):
        assert block in (ROOT / source).read_text("utf-8")


def test_the_page_on_models_lists_all_ops():
    page = " ".join((DOCS / "add_a_model.md").read_text("utf-8").split())
    assert ", ".join(f"`{name}`" for name in sorted(OPS)) + "." in page
