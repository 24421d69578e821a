"""Tools in a request: what there is, which may be called, and which were called before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from octavo.chat_formats.tools import ToolUse
from octavo.server.errors import HttpError
from octavo.server.protocol.common import NOT_YET, Name, Neutral, RequestModel

MAX_TOOLS = 128
MAX_DESCRIPTION = 1 << 16


def _check_kind(value: Any) -> Any:
    """Tools of other types than functions are others' programs: they are refused by name."""
    if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind != "function":
        raise ValueError(f"tools of type {kind[:40]!r} are not supported; a tool is of type 'function'")
    return value


ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Function(RequestModel):
    name: ToolName
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION)] | None = None
    parameters: dict[str, Any] | None = Field(None, description="the JSON schema of the arguments, an object")
    strict: bool | None = Field(None, description="taken; arguments always fit the schema")


class FunctionTool(RequestModel):
    type: Literal["function"]
    function: Function


Tool = Annotated[FunctionTool, BeforeValidator(_check_kind)]


class NamedFunction(RequestModel):
    name: ToolName


class NamedTool(RequestModel):
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(RequestModel):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedToolsChoice(RequestModel):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice


class CalledFunction(RequestModel):
    name: Name
    arguments: str | dict[str, Any] | None = Field(None, description="the JSON of an object, or the object")


class ToolCall(RequestModel):
    """A call in an earlier answer."""

    id: Name | None = None
    type: Literal["function"] | None = None
    function: CalledFunction
    index: int | None = Field(None, description="taken, and not used: calls are in their order")


def _check_names(tools: list[FunctionTool]) -> list[FunctionTool]:
    seen: dict[str, int] = {}
    for place, tool in enumerate(tools):
        if (first := seen.setdefault(tool.function.name, place)) != place:
            raise ValueError(f"entries {first} and {place} have the same name, {tool.function.name!r}")
    return tools


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS), AfterValidator(_check_names)]


class ToolFields(RequestModel):
    """Which tools there are, and which may be called."""

    tools: Tools | None = None
    tool_choice: ToolChoice | None = Field(None, description="left out: auto where there are tools")
    parallel_tool_calls: bool | None = Field(
        None, description="whether an answer may have several calls; left out: it may"
    )
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "functions": ((None, []), "is the old name of tools; write {'type': 'function', 'function': …} there"),
        "function_call": ((None, "none", "auto"), "is the old name of tool_choice"),
        "web_search_options": ((None,), "is not supported: the server fetches nothing"),
        "mm_processor_kwargs": ((None, {}), NOT_YET),
    }

    def check_tools(self) -> None:
        """Raises HttpError for a choice of what is not there."""
        names = {tool.function.name for tool in self.tools or ()}
        chosen = _chosen(self.tool_choice)
        if not names and (chosen or self.tool_choice == "required"):
            raise HttpError("tool_choice: there are no tools to choose", "tool_choice", code="invalid_value")
        if missing := next((name for name in chosen or () if name not in names), None):
            reason = f"tool_choice: there is no tool {missing!r}; there are {', '.join(sorted(names))[:200]}"
            raise HttpError(reason, "tool_choice", code="invalid_value")

    @property
    def tool_use(self) -> ToolUse:
        choice = self.tool_choice or "auto"
        names = _chosen(self.tool_choice)
        if isinstance(choice, NamedTool):
            choice = "required"
        elif isinstance(choice, AllowedToolsChoice):
            choice = choice.allowed_tools.mode
        tools = [tool.model_dump(exclude_none=True) for tool in self.tools or ()]
        return ToolUse.of(tools, choice, names, self.parallel_tool_calls is not False)


def _chosen(choice: ToolChoice | None) -> Sequence[str] | None:
    """The names that a choice leaves; None: all."""
    match choice:
        case NamedTool():
            return [choice.function.name]
        case AllowedToolsChoice():
            return [tool.function.name for tool in choice.allowed_tools.tools]
    return None
