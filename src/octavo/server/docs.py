"""The page at /docs: the OpenAPI schema, as HTML that fetches nothing from anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields
from html import escape
from typing import Any

from octavo.engine.defaults import NAMES
from octavo.sampling_params import SamplingParams

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1rem; color: #222 }
h2 { border-top: 1px solid #ccc; padding-top: 1.2rem; margin-top: 2rem; font-size: 1.15rem }
h2 code { font-size: 1.1rem; background: none; padding: 0 }
code, pre { font: 14px/1.5 ui-monospace, monospace; background: #f3f3f3; overflow-wrap: anywhere }
pre { padding: .6rem .8rem; white-space: pre-wrap } nav ul { columns: 16rem; padding-left: 1.2rem }
dl { display: grid; grid-template-columns: minmax(12rem, max-content) 1fr; gap: .3rem 1rem } dd { margin: 0 }
dt, dd { min-width: 0; overflow-wrap: anywhere } .about { color: #666 } summary { cursor: pointer; margin: .6rem 0 }
@media (max-width: 40rem) { dl { display: block } dd { margin: 0 0 .6rem } }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #ddd } code, pre { background: #2a2a2a } .about { color: #aaa } a { color: #8bf }
}
"""
_QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
_QUERY, _DOCUMENTS = "Why is the sky blue?", ["Because of Rayleigh scattering.", "Grass is green."]
# What curl sends to try an endpoint: JSON, or a form's fields.
EXAMPLES: dict[str, Any] = {
    "/v1/chat/completions": {"messages": _QUESTION, "max_tokens": 200},
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": 50},
    "/v1/embeddings": {"input": ["Why is the sky blue?", "Because of Rayleigh scattering."]},
    "/pooling": {"input": "Why is the sky blue?", "task": "token_embed"},
    "/classify": {"input": ["I like it.", "I do not."]},
    **{path: {"text_1": _QUERY, "text_2": _DOCUMENTS} for path in ("/score", "/v1/score")},
    **{path: {"query": _QUERY, "documents": _DOCUMENTS} for path in ("/rerank", "/v1/rerank", "/v2/rerank")},
    "/v1/audio/transcriptions": "-F file=@audio.wav -F response_format=text",
    "/v1/audio/translations": "-F file=@audio.wav",
    "/v1/files": "-F purpose=batch -F file=@requests.jsonl",
    "/v1/batches": {"input_file_id": "ID", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    "/v1/responses": {"input": "Why is the sky blue?", "max_output_tokens": 200},
    "/v1/responses/input_tokens": {"input": "Why is the sky blue?"},
    "/v1/conversations": {"items": _QUESTION},
    "/v1/messages": {"messages": _QUESTION, "max_tokens": 200},
    "/v1/messages/count_tokens": {"messages": _QUESTION},
    "/api/chat": {"messages": _QUESTION},
    "/api/generate": {"prompt": "Why is the sky blue?"},
    "/api/embed": {"input": ["Why is the sky blue?"]},
    "/api/embeddings": {"prompt": "Why is the sky blue?"},
    "/api/show": {"model": "MODEL"},
    "/api/pull": {"model": "MODEL"},
    "/tokenize": {"prompt": "Hello, world!"},
    "/detokenize": {"tokens": [1, 2, 3]},
}
_SAMPLING = {field.name: field.default for field in fields(SamplingParams) if field.default not in (None, MISSING)}
_OF_THE_MODEL = {*NAMES.values(), "max_completion_tokens"}
_REFERENCE = re.compile(r"#/components/schemas/([\w-]+)")

Json = dict[str, Any]


def docs_page(schema: Json, address: str) -> str:
    """Every endpoint with an example, its fields and its answers; `address` is where the server was asked."""
    operations = [
        (f"{method.upper()} {path}", method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    contents = "".join(f"<li><a href='#{_anchor(name)}'>{escape(name)}</a></li>" for name, *_ in operations)
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Octavo</title>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<style>{STYLE}</style><h1>Octavo {escape(schema['info']['version'])}</h1>",
        "<p>An OpenAI-compatible server. The schema for machines is at <a href='openapi.json'>openapi.json</a>. Where "
        "keys are asked for, add <code>-H 'Authorization: Bearer KEY'</code> to the examples.</p>",
        f"<nav><h2>Contents</h2><ul>{contents}</ul></nav>",
    ]
    for name, method, path, operation in operations:
        parts.append(f"<h2 id='{_anchor(name)}'><code>{escape(name)}</code></h2>")
        parts.append(f"<p>{escape(operation.get('description', ''))}</p>")
        parts.append(f"<pre>{escape(_example(method, path, address))}</pre>")
        parts += _body(schema, operation)
        parts.append(_answers(operation))
    return "\n".join(parts)


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _example(method: str, path: str, address: str) -> str:
    content = EXAMPLES.get(path, "")
    if not isinstance(content, str):
        content = f"-H 'Content-Type: application/json' -d '{json.dumps(content)}'"
    elif method == "post" and not content:
        content = "-X POST"
    return f"curl {address}{path.replace('{model_id}', 'NAME')} {content}".rstrip()


def _body(schema: Json, operation: Json) -> Iterator[str]:
    """What an endpoint takes: its fields, those that are needed first, and then what it knows and refuses."""
    schemas = schema["components"]["schemas"]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        body = schemas[content["schema"]["$ref"].rpartition("/")[2]]
        required = body.get("required", [])
        named = sorted(body.get("properties", {}).items(), key=lambda item: item[0] not in required)
        refused = [(name, field) for name, field in named if _is_refused(field)]
        taken = _fields([one for one in named if one not in refused], required)
        yield f"<p>Fields, as <code>{escape(media_type)}</code>:</p>{taken}"
        for other in sorted(set(_REFERENCE.findall(json.dumps(body)))):
            rows = _fields(schemas[other]["properties"].items(), schemas[other].get("required", []))
            yield f"<p><code>{escape(other)}</code>:</p>{rows}"
        if refused:
            yield f"<details><summary>Fields that are refused</summary>{_fields(refused)}</details>"


def _is_refused(field: Json) -> bool:
    """Whether it is one that `tell_refused` added: nothing, or only neutral values, may be said."""
    return "not" in field or ("enum" in field and "type" not in field)


def _fields(named: Iterable[tuple[str, Json]], required: Sequence[str] = ()) -> str:
    rows = []
    for name, field in named:
        need = "required" if name in required else _default(name, field)
        about = "; ".join(filter(None, [_type(field), need, field.get("description", "")]))
        rows.append(f"<dt><code>{escape(name)}</code></dt><dd>{escape(about)}</dd>")
    return f"<dl>{''.join(rows)}</dl>"


def _default(name: str, field: Json) -> str:
    """What is meant where a field is left out, as far as that can be said in a word."""
    value = field.get("default")
    if value is None:
        value = _SAMPLING.get(name)
    if name in _OF_THE_MODEL:
        neutral = "" if value is None or "max_" in name else f", or else {json.dumps(value)}"
        return f"default: the model's{neutral}"
    return "" if value is None or isinstance(value, list | dict) else f"default: {json.dumps(value)}"


def _answers(operation: Json) -> str:
    answers = "".join(
        f"<dt>{escape(status)}</dt><dd>{escape(answer['description'])}</dd>"
        for status, answer in sorted(operation["responses"].items())
    )
    return f"<details><summary>Answers</summary><dl>{answers}</dl></details>"


def _type(field: Json) -> str:
    if "enum" in field:
        return "only " + ", ".join(json.dumps(value) for value in field["enum"])
    if "not" in field:
        return "refused"
    if "anyOf" in field:
        kinds = [_type(one) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    limits = [
        f"{sign} {field[name]}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in field
    ]
    return " ".join([str(field.get("type", "any")), *limits])
