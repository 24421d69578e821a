"""POST /tokenize and /detokenize, GET /tokenizer_info."""

from __future__ import annotations

from fastapi import APIRouter, Request

from octavo.server.admission import named as model_named
from octavo.server.body import read_body
from octavo.server.errors import HttpError
from octavo.server.protocol.answers import AddedToken, Text, TokenizerInfo, Tokens
from octavo.server.protocol.tokens import DetokenizeRequest, TokenizeRequest
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["tokens"])
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


@router.post("/tokenize", **endpoint(TokenizeRequest, Tokens))
async def tokenize(request: Request) -> JSONAnswer:
    """The token ids of a text or of a conversation."""
    server = state_of(request)
    body = await read_body(request, TokenizeRequest, server.config)
    body.check()
    model = await model_named(request, body.model)
    loaded = model.engine.model
    if body.prompt is not None:
        ids = (await model.read_texts([body.prompt], body.add_special_tokens is not False))[0].token_ids
    else:
        messages = [message.plain() for message in body.messages or []]
        ids = (await model.read_chat(messages, use=body.tool_use, **body.template_options())).token_ids
    texts = [loaded.tokenizer.spelling(token) for token in ids] if body.return_token_strs else None
    return JSONAnswer({"count": len(ids), "max_model_len": loaded.max_model_len, "tokens": ids, "token_strs": texts})


@router.post("/detokenize", **endpoint(DetokenizeRequest, Text))
async def detokenize(request: Request) -> JSONAnswer:
    """The text of token ids."""
    server = state_of(request)
    body = await read_body(request, DetokenizeRequest, server.config)
    loaded = (await model_named(request, body.model)).engine.model
    if bad := next((token for token in body.tokens if token >= loaded.vocab_size), None):
        reason = f"tokens: {bad} is outside the vocabulary; ids are 0..{loaded.vocab_size - 1}"
        raise HttpError(reason, "tokens", code="invalid_value")
    return JSONAnswer({"prompt": loaded.tokenizer.decode(body.tokens, skip_special_tokens=False)})


@router.get("/tokenizer_info", **endpoint(None, TokenizerInfo))
async def tokenizer_info(request: Request, model: str | None = None) -> JSONAnswer:
    """What a tokenizer_config.json says; `model` says of which model, where there are several."""
    loaded = (await model_named(request, model)).engine.model
    tokenizer = loaded.tokenizer
    named = {name: tokenizer.special_tokens_map.get(name) for name in NAMED}
    added = {
        str(token_id): {name: getattr(token, name) for name in AddedToken.model_fields}
        for token_id, token in sorted(tokenizer.added_tokens.items())
    }
    special = [token["content"] for token in added.values() if token["special"]]
    return JSONAnswer(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",  # what reads any tokenizer of the Rust library
            **named,
            "additional_special_tokens": [text for text in special if text not in named.values()],
            "added_tokens_decoder": added,
            "chat_template": loaded.chat_template.source if loaded.chat_template else None,
            "model_max_length": loaded.max_model_len,
        }
    )
