"""`octavo rerank` as a process: documents of lines and of JSON, sorted by their scores."""

import json

import pytest

from encoders import WORDS
from octavo import LLM

from .processes import octavo
from .test_embed import SUMMARY, lines_of, model  # noqa: F401

DOCUMENTS = ["the cat sat on the mat", "king of queen", "", "where is the queen"]
QUERY = "where is the king"


@pytest.fixture(scope="module")
def own(model):  # noqa: F811
    """The scores of DOCUMENTS, with the prompt that the model has for queries."""
    outputs = LLM(model).score(QUERY, DOCUMENTS, prompt_names=("query", None), use_tqdm=False)
    return [output.outputs.score for output in outputs]


def rerank(model, *arguments, **options):  # noqa: F811
    return octavo("rerank", model, "--query", QUERY, *arguments, **options)


def test_the_best_is_the_first_and_the_speed_is_on_stderr(model, own, tmp_path):  # noqa: F811
    file = tmp_path / "documents"
    file.write_text("\n".join(DOCUMENTS))
    result = rerank(model, str(file))
    assert (result.returncode, SUMMARY.fullmatch(result.stderr) is not None) == (0, True)
    order = sorted(range(4), key=lambda i: -own[i])
    expected = [{"index": i, "score": own[i], "text": DOCUMENTS[i]} for i in order]
    assert lines_of(result.stdout) == expected
    assert lines_of(rerank(model, "-", "--top-n", "2", stdin="\n".join(DOCUMENTS)).stdout) == expected[:2]


def test_fields_of_json_lines_are_kept(model, own):  # noqa: F811
    lines = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(DOCUMENTS)]
    found = lines_of(rerank(model, "-", stdin="\n".join([*lines, "{king"])).stdout)
    assert {line["id"]: line["score"] for line in found if "id" in line} == {f"d{i}": own[i] for i in range(4)}
    assert [line["text"] for line in found if line["index"] == 4] == ["{king"]


def test_one_bad_document_is_left_out_and_named(model):  # noqa: F811
    texts = "\n".join(["cat", " ".join(WORDS * 8), "dog"])
    result = rerank(model, "-", stdin=texts)
    assert result.returncode == 2
    assert result.stderr.startswith("octavo: document 1: This model's maximum context length is 140 tokens")
    assert sorted(line["index"] for line in lines_of(result.stdout)) == [0, 2]
    assert rerank(model, "-", "--truncate-prompt-tokens", "-1", stdin=texts).returncode == 0


REFUSED = [
    (["m", "f"], "the following arguments are required: --query"),
    (["--query", "q"], "octavo rerank takes [MODEL] FILE, got 0 arguments"),
    (["--query", "q", "a", "b", "c"], "octavo rerank takes [MODEL] FILE, got 3 arguments"),
    (["--query", "q", "no-such-file"], "no-such-file: there is no such file"),
    (["--query", "q", "-"], "line 2: a document's JSON object must have a string `text`"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_is_wrong_is_said_before_anything_is_loaded(arguments, reason):
    result = octavo("rerank", *arguments, stdin='{"text": "a"}\n{"body": "b"}\n')
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"octavo: {reason}")
