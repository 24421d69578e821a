"""What grammars of answers let through: random walks make calls that are read, and that fit their schemas."""

import json
import random
import re

import jsonschema
import numpy as np
import pytest

from chat_formats.written import FORMATS, TOOLS, call_text, chat_format, read
from octavo.chat_formats.tools import ToolUse
from octavo.errors import GrammarError

llguidance = pytest.importorskip("llguidance")
PATHS = {name: f"tools[{i}].function.parameters" for i, name in enumerate(TOOLS)}
END = 256
PREFERRED = b'"}]>)<\n|/'  # what leads to an end
# A mark that is made of special tokens, as most tokenizers have them: <|…|>, <｜…｜>, [TOOL_CALLS] …
SPECIAL = re.compile(r"<\|[^|<>]*\|>|<｜[^｜<>]*｜>|\[/?[A-Z_]{4,}\]|<\|\"\|>|<\|\w+>|<\w+\|>")


class Bytes:
    """A vocabulary of bytes, an end, and special tokens."""

    is_tokenizer_wrapper = True
    eos_token_id, bos_token_id = END, None

    def __init__(self, special):
        self.special = {text: END + 1 + i for i, text in enumerate(sorted(special))}
        self.tokens = [bytes([i]) for i in range(256)] + [b"<end>", *(text.encode() for text in sorted(special))]
        self.special_token_ids = [END, *self.special.values()]

    def __call__(self, text):
        return list(text.encode() if isinstance(text, str) else text)

    def split(self, text):
        """Token ids of a text, in which special tokens are one each."""
        pieces = re.split(f"({'|'.join(map(re.escape, self.special)) or '(?!)'})", text)
        return [i for piece in pieces for i in ([self.special[piece]] if piece in self.special else piece.encode())]


def special_tokens(calls, thinking=None):
    texts = calls.texts + (thinking.texts if thinking else ())
    found = {token for text in texts for token in SPECIAL.findall(text)}
    return found | (
        {"<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"} if calls.name == "harmony" else set()
    )


class Walk:
    """Answers that a grammar of a format lets through."""

    def __init__(self, name, use, thinking=None, prompt="", is_special=True, body=None):
        calls = FORMATS[name]
        marks = chat_format(name, thinking)
        self.vocabulary = Bytes(special_tokens(calls, marks.thinking) if is_special else ())
        self.format = chat_format(name, thinking, self.vocabulary.special)
        self.use, self.prompt = use, prompt
        self.marks = calls.texts + (marks.thinking.texts if marks.thinking else ())
        grammar = self.format.grammar(prompt, use, self.vocabulary.special, body)
        source = llguidance.LLMatcher.grammar_from_lark(grammar.lark)
        tokens = llguidance.LLTokenizer(self.vocabulary)
        self.first = llguidance.LLMatcher(tokens, source, log_level=0)
        assert not self.first.is_error(), self.first.get_error()

    def takes(self, text):
        """(how much of a text is let through, whether it may end there)."""
        matcher = self.first.deep_copy()
        ids = self.vocabulary.split(text)
        count = matcher.try_consume_tokens(ids)
        return b"".join(self.vocabulary.tokens[i] for i in ids[:count]).decode(errors="replace"), matcher.is_accepting()

    def random_text(self, rng, longest=3000):
        """A random answer; None if it did not come to an end."""
        matcher, ids = self.first.deep_copy(), []
        bits = np.zeros(-(-len(self.vocabulary.tokens) // 32), np.uint32)
        while len(ids) < longest and not matcher.is_stopped():
            bits[:] = 0
            matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
            allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
            ending = [i for i in allowed if i >= END or i in PREFERRED]
            mark = self.vocabulary.split(rng.choice(self.marks)) if rng.random() < 0.1 else []
            if mark and matcher.deep_copy().try_consume_tokens(mark) == len(mark):
                matcher.consume_tokens(mark)
                ids += mark
                continue
            token = int(rng.choice(ending if ending and rng.random() < 0.5 else allowed.tolist()))
            if token == END:
                break
            matcher.consume_token(token)
            assert not matcher.is_error(), matcher.get_error()
            ids.append(token)
        text = b"".join(self.vocabulary.tokens[i] for i in ids)
        return text.decode() if matcher.is_accepting() else None

    def read(self, text):
        answer = read(self.format.reader(self.prompt, self.use), text)
        for call in answer.calls:
            jsonschema.validate(json.loads(call.arguments), self.use.callable[call.name])
        return answer


def use(is_required=True, is_parallel=True, tools=TOOLS):
    paths = {name: PATHS.get(name, f"tools[{name}].function.parameters") for name in tools}
    return ToolUse((), tools, paths, is_required, is_parallel)


@pytest.mark.parametrize(
    ("name", "is_special"),
    [(name, is_special) for name in FORMATS for is_special in (True, False) if is_special or name != "harmony"],
)
def test_required_calls_are_read_and_fit(name, is_special):
    walk = Walk(name, use(), is_special=is_special)
    rng, found = random.Random(name), 0
    for _ in range(40):
        if (text := walk.random_text(rng)) is not None:
            answer = walk.read(text)
            assert answer.calls, text
            assert not answer.content or name == "harmony", text
            found += 1
    assert found >= 20


@pytest.mark.parametrize("name", FORMATS)
def test_answers_that_may_call_are_texts_or_calls_that_fit(name):
    walk = Walk(name, use(is_required=False))
    rng = random.Random(name)
    for _ in range(10):
        if (text := walk.random_text(rng)) is not None:
            walk.read(text)
    assert walk.takes(without_call(name, "Hello <b>you</b> {1} [2]"))[1]
    for content in ("", "Let me look."):
        answer = with_call(FORMATS[name], content)
        assert walk.takes(answer) == (answer, True)
        assert [call.name for call in walk.read(answer).calls] == ["ping"]


@pytest.mark.parametrize("name", FORMATS)
def test_tools_may_be_many_and_have_many_arguments(name):
    optional = {f"p{i}": {"type": "integer"} for i in range(60)}
    tools = {f"tool{i}": {"type": "object", "properties": optional} for i in range(8)}
    walk = Walk(name, use(tools=tools))
    arguments = {"p3": 1, "p59": 2}
    body = call_text(FORMATS[name].syntax, "tool7", arguments, 0)
    if "p3:1, p59" in body:  # this format has no space there
        body = body.replace(", ", ",")
    text = with_call(FORMATS[name], "", body)
    assert walk.takes(text) == (text, True)
    assert json.loads(walk.read(text).calls[0].arguments) == arguments


KINDS = [
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^[a-c]+$"},
    {"type": "string", "format": "date"},
    {"enum": ["a b", "</x>", "two"]},
    {"enum": ["", " a", "1", "null"]},
    {"enum": [1, "1", None, True]},
    {"const": "x"},
    {"const": 5},
    {"type": ["string", "null"]},
    {"type": ["string", "integer"]},
    {"anyOf": [{"type": "string"}, {"type": "number"}]},
    {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
    {"type": "number", "minimum": -3, "maximum": 7},
    {"type": "integer", "multipleOf": 5},
    {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 3},
    {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False},
    {"$ref": "#/$defs/name"},
    {"type": "array", "items": {"$ref": "#/$defs/name"}, "maxItems": 2},
    {"description": "a text", "type": "string"},
    {},
]


@pytest.mark.parametrize("name", FORMATS)
def test_arguments_of_all_kinds_fit(name):
    rng, found = random.Random(name), 0
    for start in range(0, len(KINDS), 3):
        properties = {f"p{i}": kind for i, kind in enumerate(KINDS[start : start + 3])}
        schema = {
            "type": "object",
            "properties": properties,
            "required": ["p0", "p2"],
            "$defs": {"name": {"type": "string", "maxLength": 4}},
        }
        walk = Walk(name, use(tools={"f": schema}))
        for _ in range(5):
            if (text := walk.random_text(rng)) is not None:
                assert walk.read(text).calls, text
                found += 1
    assert found >= 20


REFUSED = [
    ({"type": "string"}, "type"),
    ({"properties": {"a": {"not": {}}}}, "properties.a.not"),
    ({"properties": {"a": {"type": "strin"}}}, "properties.a.type"),
    ({"properties": {"a": {"$ref": "https://example.com/x"}}}, "properties.a.$ref"),
]


@pytest.mark.parametrize("name", FORMATS)
def test_what_can_t_be_honoured_is_refused_by_its_path(name):
    for schema, path in REFUSED:
        with pytest.raises(GrammarError) as error:
            Walk(name, use(tools={"f": schema, **TOOLS}))
        assert error.value.name == f"tools[f].function.parameters.{path}", schema


def without_call(name, text):
    return f"<|channel|>final<|message|>{text}" if name == "harmony" else text


def with_call(calls, content, body=None):
    """An answer with a call, in the white space of the grammar."""
    begin = calls.begins[0]
    if calls.name == "harmony" and content:
        content = f"<|channel|>commentary<|message|>{content}<|end|><|start|>assistant"
    elif content and not calls.marks:
        content = ""
    elif content:
        begin = next(each for each in calls.begins if each)
    return (
        content + begin + calls.opening + (body or call_text(calls.syntax, "ping", {}, 0)) + calls.closing + calls.end
    )
