"""The tools of a request, and which of them may or must be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ToolUse:
    """`tools` are what the model is told of, in OpenAI's form; `callable` has the schemas of those it may call."""

    tools: Sequence[Mapping[str, Any]] = ()
    callable: Mapping[str, Any] = field(default_factory=dict)  # schema of the arguments, by name
    paths: Mapping[str, str] = field(default_factory=dict)  # where a request has these schemas, by name
    is_required: bool = False  # the answer has to be a call
    is_parallel: bool = True  # it may have several

    @classmethod
    def of(
        cls,
        tools: Sequence[Mapping[str, Any]] | None,
        choice: Literal["auto", "required", "none"] = "auto",
        names: Sequence[str] | None = None,
        is_parallel: bool = True,
    ) -> ToolUse:
        """`names` are those that may be called, where not all may. A model that may call none is told of none."""
        if not tools or choice == "none":
            return cls()
        schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
        allowed = {name: schema for name, schema in schemas.items() if names is None or name in names}
        paths = {tool["function"]["name"]: f"tools[{i}].function.parameters" for i, tool in enumerate(tools)}
        return cls(tools, allowed, paths, choice == "required", is_parallel)
