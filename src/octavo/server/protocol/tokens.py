"""POST /tokenize and /detokenize, with vLLM's fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from octavo.server.errors import HttpError
from octavo.server.protocol.chat import MAX_MESSAGES, Message
from octavo.server.protocol.common import NOT_YET, Name, Neutral, RequestModel, TokenIds


class TokenizeRequest(RequestModel):
    """A text or a conversation, of which one has to be there."""

    model: Name | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "tools": ((None, []), NOT_YET),
        "mm_processor_kwargs": ((None, {}), NOT_YET),
        "chat_template": ((None,), "of a request is refused; start the server with --chat-template FILE"),
    }

    def check(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise HttpError("give either prompt or messages", "prompt", code="invalid_value")


class DetokenizeRequest(RequestModel):
    """Token ids to turn into text."""

    model: Name | None = None
    tokens: TokenIds
