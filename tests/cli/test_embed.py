"""`octavo embed` as a process: where texts come from, what is written where, and what one bad text does."""

import json
import re

import numpy as np
import pytest

from checkpoints import edit_config
from encoders import ENCODERS, WORDS, save_modules, save_words
from octavo import LLM

from .processes import octavo
from .test_imports import MAIN, imported

TEXTS = ["the cat sat on the mat", "dog", "", "a river of money"]
LONG = " ".join(WORDS * 8)
SUMMARY = re.compile(
    r"\d+ (text|document)s? of \d+ tokens · \d+\.\d tok/s · "
    r"first result \d+\.\d\d s from the command\n"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "words"
    ENCODERS["BERT"].save(path)
    save_words(path)
    save_modules(path, prompts={"prompts": {"query": "query : "}})
    edit_config(path, matryoshka_dimensions=[16, 32])
    return str(path)


@pytest.fixture(scope="module")
def own(model):
    """What the offline API makes of TEXTS."""
    return [output.outputs.embedding for output in LLM(model).embed(TEXTS, use_tqdm=False)]


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_each_text_is_a_line_of_json_and_the_speed_is_on_stderr(model, own):
    result = octavo("embed", model, TEXTS[0], TEXTS[1])
    assert (result.returncode, SUMMARY.fullmatch(result.stderr) is not None) == (0, True)
    found = lines_of(result.stdout)
    assert [list(line) for line in found] == [["index", "text", "tokens", "embedding"]] * 2
    assert [(line["index"], line["text"], line["tokens"]) for line in found] == [(0, TEXTS[0], 8), (1, TEXTS[1], 3)]
    assert [line["embedding"] for line in found] == own[:2]


def test_lines_come_from_stdin_or_a_file_and_empty_ones_keep_their_place(model, own, tmp_path):
    for end in ("", "\n"):
        found = lines_of(octavo("embed", model, "-", stdin="\n".join(TEXTS) + end).stdout)
        assert [line["embedding"] for line in found] == own
    file, target = tmp_path / "texts", tmp_path / "vectors.jsonl"
    file.write_bytes("\r\n".join(TEXTS).encode("utf-8-sig"))
    assert octavo("embed", "--input", str(file), model, "--output", str(target)).stdout == ""
    assert [line["embedding"] for line in lines_of(target.read_text())] == own


def test_an_array_of_float32(model, own, tmp_path):
    target = tmp_path / "vectors.npy"
    assert octavo("embed", "--model", model, *TEXTS, "-o", str(target)).returncode == 0
    array = np.load(target)
    assert (array.dtype, array.shape) == (np.float32, (4, 48))
    np.testing.assert_array_equal(array, np.array(own, np.float32))


def test_dimensions_lengths_prompts_and_truncation(model):
    flags = ("--dimensions", "16", "--no-normalize", "--prompt-name", "query", "--truncate-prompt-tokens", "5")
    (found,) = lines_of(octavo("embed", model, "the cat sat", *flags).stdout)
    (whole,) = lines_of(octavo("embed", model, "query : the", "--no-normalize").stdout)
    assert found["tokens"] == 5
    assert found["embedding"] == whole["embedding"][:16]


def test_one_bad_text_gets_an_error_and_the_others_go_on(model, own, tmp_path):
    texts = "\n".join([TEXTS[0], LONG, TEXTS[1]])
    result = octavo("embed", model, "-", stdin=texts)
    assert result.returncode == 2
    assert result.stderr.startswith("octavo: text 1: This model's maximum context length is 140 tokens, but the prompt")
    first, bad, last = lines_of(result.stdout)
    assert (first["embedding"], last["embedding"]) == (own[0], own[1])
    assert "embedding" not in bad
    assert "140 tokens" in bad["error"]
    target = tmp_path / "vectors.npy"
    assert octavo("embed", model, "-", "-o", str(target), stdin=texts).returncode == 2
    assert np.isnan(np.load(target)).tolist() == [[False] * 48, [True] * 48, [False] * 48]
    assert octavo("embed", model, "-", "--truncate-prompt-tokens", "-1", stdin=texts).returncode == 0


REFUSED = [
    ([], "octavo embed takes [MODEL] TEXT…, - for stdin, or --input FILE"),
    (["-", "-", "--model", "m"], "- is given twice, but there is one stdin"),
    (["a", "b", "--input", "f"], "--input f has the texts; besides, octavo embed takes only a MODEL"),
    (["m", "--input", "no-such-file"], "no-such-file: there is no such file"),
    (["m", "-"], "stdin is empty; it must have a text on each line"),
    (["m", "a", "-o", "x.csv"], "--output x.csv: must end in .npy or .jsonl"),
    (["m", "a", "-o", "no/x.npy"], "--output 'no/x.npy': can't be written there"),
    (["m", "a", "--truncate-prompt-tokens", "0"], "--truncate-prompt-tokens must be an integer of at least 1, or -1"),
    (["tiny.en", "a"], "tiny.en listens to speech: octavo transcribe --model tiny.en FILE writes down what is said"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_is_wrong_is_said_before_anything_is_loaded(arguments, reason):
    result = octavo("embed", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"octavo: {reason}")


def test_what_the_model_has_not_is_refused(model):
    for flags, reason in (
        ("--dimensions 17", "--dimensions must be 16, 32"),
        ("--prompt-name x", "--prompt-name must"),
    ):
        result = octavo("embed", model, "cat", *flags.split())
        assert (result.returncode, result.stdout) == (2, "")
        assert reason in result.stderr


def test_it_needs_neither_the_hub_nor_the_server_nor_a_bar(model):
    loaded = imported(MAIN, "embed", model, "cat")
    assert "numpy" in loaded
    assert not loaded & {"fastapi", "pydantic", "starlette", "torch", "huggingface_hub", "tqdm", "jinja2", "av"}
