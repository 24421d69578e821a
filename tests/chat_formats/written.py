"""Answers as the table of formats says that models write them."""

import json
import string

from octavo.chat_formats.format import ChatFormat
from octavo.chat_formats.parts import Answer
from octavo.chat_formats.syntax import HarmonyCall, NamedCall, ObjectCall, PythonCall, XmlCall
from octavo.chat_formats.table import CALL_FORMATS
from octavo.chat_formats.thinking import THINKING

FORMATS = {each.name: each for each in CALL_FORMATS}
THINKINGS = {each.name: each for each in THINKING}
TOOLS = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "where": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "exact": {"type": "boolean"},
        },
        "required": ["city"],
    },
    "search.web-2": {
        "type": "object",
        "properties": {
            "queries": {"type": "array", "items": {"type": "string"}},
            "options": {"type": "object", "properties": {"safe": {"type": "boolean"}, "near": {"type": "number"}}},
        },
        "required": ["queries", "options"],
    },
    "ping": {"type": "object", "properties": {}},
}
TEXTS = [
    "",
    "Paris",
    "a b",
    "São Paulo 🌍",
    "x < y > z",
    'say "hi"',
    "back\\slash",
    "two\nlines",
    "{",
    "[1]",
    "</p",
    "null",
]


class Encoder:
    """What a ChatFormat needs of one that no conversation is given to."""


def chat_format(calls, thinking=None, special=()):
    return ChatFormat(Encoder(), FORMATS[calls], THINKINGS.get(thinking), frozenset(special))


def read(reader, text, cuts=(), is_cut=False):
    """What a reader makes of a text that is cut at some places."""
    answer = Answer()
    ends = [*cuts, len(text)]
    for begin, end in zip([0, *ends], ends, strict=False):
        answer.add(reader.feed(text[begin:end]))
    answer.add(reader.end(is_cut))
    for call in answer.calls:
        call.id = ""
    return answer


def random_text(rng):
    return rng.choice(TEXTS) if rng.random() < 0.7 else "".join(rng.choices(string.printable + "äöü€🙂", k=8)).strip()


def random_calls(rng, most):
    """[(name, arguments)] of tools."""
    calls = []
    for _ in range(rng.randint(1, most)):
        name = rng.choice(list(TOOLS))
        optional = {
            "get_weather": lambda: {
                "days": rng.randint(-5, 500),
                "unit": rng.choice(["celsius", "fahrenheit"]),
                "where": rng.choice([None, "here"]),
                "exact": rng.random() < 0.5,
            },
            "search.web-2": dict,
            "ping": dict,
        }[name]()
        arguments = {key: value for key, value in optional.items() if rng.random() < 0.5}
        if name == "get_weather":
            arguments = {"city": random_text(rng), **arguments}
        elif name == "search.web-2":
            queries = [random_text(rng) for _ in range(rng.randint(0, 3))]
            arguments = {"queries": queries, "options": {"safe": rng.random() < 0.5, "near": rng.uniform(-1, 1)}}
        calls.append((name, arguments))
    return calls


def written(calls, made, rng):
    """Calls in a format, with white space as its models write it."""
    bodies = [
        call_text(calls.syntax, name, arguments, number, rng.random() < 0.5)
        for number, (name, arguments) in enumerate(made)
    ]
    begin = rng.choice(calls.begins)
    if calls.separator is not None:
        return begin + calls.opening + calls.separator.join(bodies) + calls.closing + calls.end
    return (calls.again or "").join(begin + calls.opening + body + calls.closing + calls.end for body in bodies)


def call_text(syntax, name, arguments, number, ensure_ascii=False):
    as_json = json.dumps(arguments, ensure_ascii=ensure_ascii)
    match syntax:
        case ObjectCall():
            lead = syntax.lead.replace("#", str(number))
            return f'{{{lead}"{syntax.name}": "{name}", "{syntax.arguments}": {as_json}}}'
        case NamedCall():
            head = syntax.begin + syntax.prefix + name + syntax.suffix.replace("#", str(number)) + syntax.middle
            return head + as_json + syntax.end
        case XmlCall():
            pieces = [syntax.name_begin + name + syntax.name_end]
            for key, value in arguments.items():
                is_text = isinstance(value, str)
                begin = syntax.text_begin if is_text and syntax.text_begin else syntax.value_begin
                shown = value if is_text else json.dumps(value, ensure_ascii=False)
                pieces.append(syntax.key_begin + key + syntax.key_end + begin + shown + syntax.value_end)
            return "".join(pieces) + syntax.end
        case PythonCall():
            values = [f"{key}{syntax.assign}{python_text(value, syntax.quote)}" for key, value in arguments.items()]
            return syntax.begin + name + syntax.open + ", ".join(values) + syntax.close
        case HarmonyCall():
            return f"{name} <|constrain|>json<|message|>{as_json}"


def python_text(value, quote):
    if quote is None:
        return repr(value)
    if isinstance(value, str):
        return quote + value + quote
    if isinstance(value, list):
        return f"[{','.join(python_text(item, quote) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{python_text(item, quote)}" for key, item in value.items()) + "}"
    return json.dumps(value)
