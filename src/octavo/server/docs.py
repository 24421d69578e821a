"""The page at /docs: the OpenAPI schema, as HTML that fetches nothing from anywhere."""

from __future__ import annotations

from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
code { background: #f3f3f3; padding: 0 .2em } h2 { border-top: 1px solid #ddd; padding-top: 1rem }
table { border-collapse: collapse } td, th { text-align: left; padding: .1rem .8rem .1rem 0; vertical-align: top }
"""


def docs_page(schema: dict[str, Any]) -> str:
    """Every endpoint with its fields and its answers."""
    parts = [
        "<!doctype html><meta charset='utf-8'><title>Octavo</title>",
        f"<style>{STYLE}</style><h1>Octavo {escape(schema['info']['version'])}</h1>",
        "<p>The schema for machines is at <a href='openapi.json'>openapi.json</a>.</p>",
    ]
    for path, methods in sorted(schema["paths"].items()):
        parts += [_operation(schema, method, path, operation) for method, operation in methods.items()]
    return "\n".join(parts)


def _operation(schema: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"]
    content = operation.get("requestBody", {}).get("content", {})
    for media_type, body in content.items():
        parts.append(f"<p>As <code>{media_type}</code>:</p>{_fields(_resolved(schema, body['schema']))}")
    answers = [
        f"<tr><td>{status}</td><td>{escape(answer['description'])}</td></tr>"
        for status, answer in sorted(operation["responses"].items())
    ]
    return "".join([*parts, "<table><tr><th>status<th></tr>", *answers, "</table>"])


def _fields(body: dict[str, Any]) -> str:
    required = body.get("required", [])
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' *' if name in required else ''}</td>"
        f"<td>{escape(_type(field))}</td><td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in body.get("properties", {}).items()
    ]
    return "".join(["<table><tr><th>field<th>type<th></tr>", *rows, "</table>"])


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return "only " + ", ".join(map(repr, field["enum"]))
    if "not" in field:
        return "refused"
    if "anyOf" in field:
        return " | ".join(_type(one) for one in field["anyOf"])
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    limits = [f"{sign} {field[name]}" for name, sign in (("minimum", "≥"), ("maximum", "≤")) if name in field]
    return " ".join([str(field.get("type", "any")), *limits])


def _resolved(schema: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    return found
