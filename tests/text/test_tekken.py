"""tekken.json: tokens as its ranks make them, the conversations of its versions, and files that are wrong."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest
import regex
from nasty_corpus import NASTY

from conftest import train_byte_level
from octavo.errors import ChatTemplateError, ModelLoadError
from octavo.text.chat_template import ChatTemplate
from octavo.text.token_bytes import byte_alphabet
from octavo.text.tokenizer_files import read_tokenizer

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"]


@pytest.fixture(scope="module")
def file():
    """A tekken.json of a small vocabulary, with room for 20 special tokens, and more tokens than are used."""
    letters = byte_alphabet()
    trained = train_byte_level().get_vocab(with_added_tokens=False)
    words = sorted((word for word in trained if set(word) <= letters.keys() and "<|" not in word), key=trained.get)
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [token for word in words if len(token := bytes(letters[c] for c in word)) > 1]
    return {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": len(tokens) - 30,
            "default_num_special_tokens": 20,
            "version": "v7",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
        "special_tokens": [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(SPECIAL)],
    }


def read(folder, file, version=None):
    config = file["config"] | ({} if version is None else {"version": version})
    (folder / "tekken.json").write_text(json.dumps(file | {"config": config}))
    return read_tokenizer(folder)


def by_ranks(file, text):
    """tiktoken's algorithm, as plainly as possible: of all neighbours, those of the lowest rank are merged first."""
    config = file["config"]
    used = file["vocab"][: config["default_vocab_size"] - config["default_num_special_tokens"]]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in used}
    found = []
    for word in regex.findall(PATTERN, text):
        parts = [bytes([byte]) for byte in word.encode()]
        while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        found += [ranks[part] + config["default_num_special_tokens"] for part in parts]
    return found


def test_tokens_are_those_that_the_ranks_make(tmp_path, file, inaugural_text):
    tokenizer = read(tmp_path, file)
    assert len(tokenizer) == file["config"]["default_vocab_size"]
    for text in (inaugural_text, *(text for text in NASTY if not any(token in text for token in SPECIAL))):
        assert tokenizer.encode(text, add_special_tokens=False) == by_ranks(file, text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_have_the_first_ids(tmp_path, file):
    tokenizer = read(tmp_path, file)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.encode("")[:1] == [1]
    assert [tokenizer.spelling(i) for i in range(20)] == SPECIAL + [f"<SPECIAL_{i}>" for i in range(8, 20)]
    assert tokenizer.special_ids == frozenset(range(20))
    assert tokenizer.encode("[INST]", add_special_tokens=False) == [3]


def test_a_file_without_special_tokens_has_those_of_its_time(tmp_path, file):
    old = {name: value for name, value in file.items() if name != "special_tokens"}
    tokenizer = read(tmp_path, old, "v3")
    assert [tokenizer.token_id(text) for text in ("<unk>", "</s>", "[IMG]", "[TOOL_CONTENT]")] == [0, 2, 10, 19]


TALKS = {  # messages: what versions before 7, and those from it on, make of them
    "ua": ("<s>[INST]U0[/INST]A1</s>", "<s>[INST]U0[/INST]A1</s>"),
    "su": ("<s>[INST]S0\n\nU1[/INST]", "<s>[SYSTEM_PROMPT]S0[/SYSTEM_PROMPT][INST]U1[/INST]"),
    "suauu": (
        "<s>[INST]U1[/INST]A2</s>[INST]S0\n\nU3\n\nU4[/INST]",
        "<s>[SYSTEM_PROMPT]S0[/SYSTEM_PROMPT][INST]U1[/INST]A2</s>[INST]U3\n\nU4[/INST]",
    ),
    "usaau": (
        "<s>[INST]U0[/INST]A2\n\nA3</s>[INST]S1\n\nU4[/INST]",
        "<s>[INST]U0[/INST][SYSTEM_PROMPT]S1[/SYSTEM_PROMPT]A2\n\nA3</s>[INST]U4[/INST]",
    ),
}
ROLES = {"s": "system", "u": "user", "a": "assistant"}


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize(("version", "which"), [("v3", 0), ("v7", 1), ("v11", 1), ("v13", 1)])
def test_conversations_are_written_as_mistral_does(tmp_path, file, talk, version, which):
    tokenizer = read(tmp_path, file, version)
    messages = [{"role": ROLES[role], "content": f"{role.upper()}{i}"} for i, role in enumerate(talk)]
    template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map)
    assert template.render(messages, add_generation_prompt=False) == TALKS[talk][which]


def test_what_the_template_does_not_know_is_refused(tmp_path, file):
    tokenizer = read(tmp_path, file)
    template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map)
    with pytest.raises(ChatTemplateError, match="tools need a chat template"):
        template.render([{"role": "user", "content": "hi"}], tools=[{"type": "function"}])
    with pytest.raises(ChatTemplateError, match="only system, user and assistant"):
        template.render([{"role": "tool", "content": "hi"}])
    assert read(tmp_path, file, "v15").chat_template is None
    (tmp_path / "chat_template.jinja").write_text("its own")
    assert read(tmp_path, file).chat_template == "its own"


def test_beside_a_tokenizer_json_it_is_not_read(tmp_path, file):
    backend = train_byte_level()
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(read(tmp_path, file)) == backend.get_vocab_size() != file["config"]["default_vocab_size"]


WRONG = {
    "no pattern": (lambda file: file["config"].pop("pattern"), r"config.pattern: must be a string"),
    "a pattern that is none": (lambda file: file["config"].update(pattern="("), r"config.pattern"),
    "no vocabulary": (lambda file: file.pop("vocab"), r"vocab: must be a list of tokens"),
    "no base64": (lambda file: file["vocab"][300].update(token_bytes="?"), r"vocab\[300\]: .*base64"),
    "no bytes": (lambda file: file["vocab"][300].update(token_bytes=""), r"vocab\[300\]: has 0 bytes"),
    "twice": (lambda file: file["vocab"].insert(9, dict(file["vocab"][8], rank=9)), r"vocab\[9\]: .*is there twice"),
    "another order": (lambda file: file["vocab"][8].update(rank=9), r"vocab\[8\]: has rank 9"),
    "a byte less": (lambda file: file["vocab"][65].update(token_bytes="QUE="), r"vocab: has no token for the byte 65"),
    "a size that is too large": (
        lambda file: file["config"].update(default_vocab_size=10**6),
        r"config.default_vocab_size: must be an integer in 1\.\.",
    ),
    "ranks with a hole": (lambda file: file["special_tokens"][3].update(rank=9), r"special_tokens\[3\]: no entry"),
    "a text that is none": (lambda file: file["special_tokens"][3].update(token_str=7), r"special_tokens\[3\]: no"),
    "too few special tokens": (
        lambda file: file["config"].update(default_num_special_tokens=3),
        r"config.default_num_special_tokens: must be an integer in 8",
    ),
    "a list that is none": (lambda file: file.update(special_tokens="all"), r"special_tokens: must be a list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path, file, name):
    change, reason = WRONG[name]
    copy = json.loads(json.dumps(file))
    change(copy)
    with pytest.raises(ModelLoadError, match=f"tekken.json: {reason}"):
        read(tmp_path, copy)
