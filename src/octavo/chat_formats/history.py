"""A conversation as the chat template of a format takes it: calls and results of tools, thinking, the tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from octavo.chat_formats.syntax import CallFormat
from octavo.errors import ParameterError
from octavo.strict_json import loads

Message = dict[str, Any]
INSTRUCTIONS = """You may call functions to help with the request. These are the functions, as JSON:
<tools>
{tools}
</tools>
To call one, answer with a JSON object of its name and its arguments between <tool_call> tags, and nothing else:
<tool_call>
{{"name": "NAME", "arguments": {{"PARAMETER": VALUE}}}}
</tool_call>"""


def prepared(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], calls: CallFormat, template: str
) -> tuple[list[Message], list[Mapping[str, Any]] | None]:
    """The messages and the tools that the template is given.

    Raises ParameterError for a call whose arguments are no JSON object, or a result of a tool without its call.
    """
    chat = [_with_reasoning(dict(message)) for message in messages]
    called: dict[str, str] = {}  # names, by id
    for i, message in enumerate(chat):
        if message.get("tool_calls"):
            message["tool_calls"] = [
                _call(call, calls, f"messages[{i}].tool_calls[{j}]") for j, call in enumerate(message["tool_calls"])
            ]
            called |= {call.get("id", ""): call["function"]["name"] for call in message["tool_calls"]}
        elif message.get("role") == "tool":
            chat[i] = _result(message, called, calls, f"messages[{i}]")
    if not calls.prompted:
        return chat, list(tools) or None
    return _described(_as_text(chat, calls), tools, "system" in template), None


def _with_reasoning(message: Message) -> Message:
    """Templates know what was thought by one of two names."""
    if (thought := message.get("reasoning") or message.get("reasoning_content")) is not None:
        message["reasoning"] = message["reasoning_content"] = thought
    return message


def _call(call: Any, calls: CallFormat, where: str) -> Message:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ParameterError(where, call, "an object with a function, which has a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = loads(arguments.encode(errors="surrogatepass")) if arguments.strip() else {}
        except ValueError as error:
            raise ParameterError(f"{where}.function.arguments", arguments, f"the JSON of an object: {error}") from None
    if not isinstance(arguments, Mapping | None):
        raise ParameterError(f"{where}.function.arguments", arguments, "the JSON of an object")
    given: Any = dict(arguments or {})
    if calls.arguments_are_text:
        given = json.dumps(given, ensure_ascii=False)
    known = {"id": _id(call["id"], calls)} if isinstance(call.get("id"), str) else {}
    return {"type": "function", **known, "function": {**function, "arguments": given}}


def _result(message: Message, called: Mapping[str, str], calls: CallFormat, where: str) -> Message:
    """A result, with the name of its tool."""
    id = message.get("tool_call_id")
    known = called.get(_id(id, calls)) if isinstance(id, str) else next(reversed(list(called.values())), None)
    if known is None:
        ids = ", ".join(list(called)[:8]) or "none: no message before it calls a tool"
        raise ParameterError(f"{where}.tool_call_id", id, f"the id of a call in a message before it, which are {ids}")
    return {"name": known, **message, **({"tool_call_id": _id(id, calls)} if isinstance(id, str) else {})}


def _id(id: str, calls: CallFormat) -> str:
    """Templates of Mistral take ids of nine letters and digits alone."""
    is_fit = calls.id != "nine" or (len(id) == 9 and id.isascii() and id.isalnum())
    return id if is_fit else sha256(id.encode(errors="surrogatepass")).hexdigest()[:9]


def _as_text(chat: list[Message], calls: CallFormat) -> list[Message]:
    """The same for a template that knows no tools: calls are text, results a user's message."""
    written: list[Message] = []
    for message in chat:
        if made := message.pop("tool_calls", None):
            text = (calls.again or "").join(
                f"{calls.begins[0]}{json.dumps(call['function'], ensure_ascii=False)}{calls.end}" for call in made
            )
            message["content"] = "\n".join(filter(None, (_content(message), text)))
        if message.get("role") != "tool":
            written.append(message)
            continue
        result = f"<tool_response>\n{_content(message)}\n</tool_response>"
        if written and written[-1].get("is_result"):
            written[-1]["content"] += f"\n{result}"
        else:
            written.append({"role": "user", "content": result, "is_result": True})
    for message in written:
        message.pop("is_result", None)
    return written


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def _described(chat: list[Message], tools: Sequence[Mapping[str, Any]], has_system_role: bool) -> list[Message]:
    """The tools are described in the system message, or in the first one where the template has no such role."""
    if not tools:
        return chat
    described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    text = INSTRUCTIONS.format(tools=described)
    first = chat[0] if chat else {}
    if first.get("role") in ("system", "developer") or not has_system_role:
        return [{**first, "content": "\n\n".join(filter(None, (_content(first), text)))}, *chat[1:]]
    return [{"role": "system", "content": text}, *chat]
