"""POST /tokenize and /detokenize, with vLLM's fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from octavo.server.errors import HttpError
from octavo.server.protocol.chat import Conversation, TemplateFields
from octavo.server.protocol.common import Name, Neutral, RequestModel, TokenIds
from octavo.server.protocol.tools import ToolFields


class TokenizeRequest(ToolFields, TemplateFields):
    """A text or a conversation, of which one has to be there."""

    model: Name | None = None
    prompt: str | None = None
    messages: Conversation | None = None
    add_special_tokens: bool | None = Field(None, description="left out: of a text true, of a conversation false")
    return_token_strs: bool | None = Field(None, description="also tokens as the vocabulary spells them")
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **ToolFields.REFUSED,
        "chat_template": ((None,), "of a request is refused; start the server with --chat-template FILE"),
    }

    def check(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise HttpError("give either prompt or messages", "prompt", code="invalid_value")
        for name in ("add_generation_prompt", "continue_final_message", "chat_template_kwargs", "tools"):
            if self.prompt is not None and getattr(self, name) is not None:
                raise HttpError(f"{name}: only with messages", name, code="invalid_value")
        self.check_tools()
        super().check()


class DetokenizeRequest(RequestModel):
    """Token ids to turn into text."""

    model: Name | None = None
    tokens: TokenIds
