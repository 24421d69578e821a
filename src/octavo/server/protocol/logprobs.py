"""Log-probabilities as answers tell them: chat's, those of completions, and vLLM's of a prompt."""

from __future__ import annotations

from typing import Any

from octavo.request import Logprob, LogprobsAtPosition
from octavo.server.protocol.common import SamplingFields
from octavo.text.tokenizer import Tokenizer


class LogprobsWriter:
    """The `logprobs` of a choice, with the `top` likeliest of each position; -1 is all of them."""

    def __init__(self, tokenizer: Tokenizer, top: int | None, body: SamplingFields):
        self._tokenizer, self._top, self._as_ids = tokenizer, top or 0, bool(body.return_tokens_as_token_ids)

    def _shown(self, token: int, text: str | None) -> str:
        return f"token_id:{token}" if self._as_ids else text or ""

    def _likeliest(self, position: LogprobsAtPosition) -> list[int]:
        """The chosen one comes first in `position`, whatever its rank."""
        by_rank = sorted(position, key=lambda token: position[token].rank or 0)
        return by_rank if self._top == -1 else by_rank[: self._top]


class ChatLogprobs(LogprobsWriter):
    def write(self, positions: list[LogprobsAtPosition]) -> dict[str, Any]:
        """The log-probability and the bytes of each generated token, and the likeliest tokens in its place."""
        return {
            "content": [
                {
                    **self._entry(next(iter(position)), position),
                    "top_logprobs": [self._entry(token, position) for token in self._likeliest(position)],
                }
                for position in positions
            ],
            "refusal": None,
        }

    def _entry(self, token: int, position: LogprobsAtPosition) -> dict[str, Any]:
        found = position[token]
        return {
            "token": self._shown(token, found.decoded_token),
            "logprob": _finite(found),
            "bytes": list(self._tokenizer.token_bytes(token)),
        }


class CompletionLogprobs(LogprobsWriter):
    """Lists; `text_offset` counts characters over all chunks of a choice. The chosen token is always listed."""

    _offset = 0

    def write(self, tokens: list[int], positions: list[LogprobsAtPosition | None]) -> dict[str, Any]:
        """The next tokens; None is the position of a prompt's first token, which has no log-probabilities."""
        lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, position in zip(tokens, positions, strict=True):
            text, logprob, listed = self._tokenizer.token(token), None, None
            if position is not None:
                text, logprob = position[token].decoded_token or "", _finite(position[token])
                likeliest = self._likeliest(position)
                shown = likeliest if token in likeliest else [token, *likeliest]
                listed = {self._shown(one, position[one].decoded_token): _finite(position[one]) for one in shown}
            for name, value in zip(lists, (self._shown(token, text), logprob, listed, self._offset), strict=True):
                lists[name].append(value)
            self._offset += len(text)
        return lists


def prompt_logprobs_json(positions: list[LogprobsAtPosition | None] | None) -> list[dict[str, Any] | None] | None:
    """vLLM's `prompt_logprobs`: for each prompt token, entries by token id."""
    if positions is None:
        return None
    return [
        None
        if position is None
        else {
            str(token): {"logprob": _finite(entry), "rank": entry.rank, "decoded_token": entry.decoded_token}
            for token, entry in position.items()
        }
        for position in positions
    ]


def _finite(entry: Logprob) -> float:
    """JSON has no infinity."""
    return max(entry.logprob, -9999.0)
