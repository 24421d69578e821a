"""What is put around the two texts of a pair for rerankers that are asked in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo.text.chat import ChatEncoder
from octavo.text.chat_template import ChatTemplate
from octavo.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """By default that of Qwen3-Reranker (Zhang et al. 2025), whose next token is yes or no."""

    prefix: str = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    before_first: str = (
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: "
    )
    before_second: str = "\n<Document>: "
    suffix: str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

    @classmethod
    def of_file(cls, metadata: Mapping[str, Any] | None) -> PairTemplate | None:
        """That of a GGUF file, which has {query} and {document} in it; None where there is no such text."""
        text = (metadata or {}).get("tokenizer.chat_template.rerank")
        if not isinstance(text, str) or "{document}" not in text.partition("{query}")[2]:
            return None
        head, _, rest = text.partition("{query}")
        before_second, _, suffix = rest.partition("{document}")
        prefix, mark, before_first = head.partition("<Instruct>")
        return cls(prefix, mark + before_first, before_second, suffix)

    def encode(self, first: str, second: str, tokenizer: Tokenizer, longest: int | None) -> list[int]:
        """Token ids of the whole, of which the second text's end is cut; a first text that has it is taken as it is."""
        if self.prefix and first.startswith(self.prefix):
            return tokenizer.encode(first + second, False)[:longest]
        asked = f"{self.before_first}{first}{self.before_second}{second}"
        begin, middle, end = (tokenizer.encode(text, False) for text in (self.prefix, asked, self.suffix))
        if longest is not None:
            middle = middle[: max(0, longest - len(begin) - len(end))]
        return [*begin, *middle, *end]


def knows_pairs(template: ChatTemplate) -> bool:
    """Whether a chat template has the roles that sentence-transformers gives the texts of a pair."""
    return all(re.search(rf"[\"']{role}[\"']", template.source or "") for role in ("query", "document"))


def as_messages(first: str, second: str, encoder: ChatEncoder, longest: int | None) -> list[int]:
    """Token ids of what the chat template makes of a pair; to fit into `longest`, the second text's end is cut."""

    def encode(text: str) -> list[int]:
        messages = [{"role": "query", "content": first}, {"role": "document", "content": text}]
        return encoder.encode(messages, add_generation_prompt=False).token_ids

    ids = encode(second)
    if longest is None or len(ids) <= longest:
        return ids
    words = encoder.tokenizer.encode(second, False)
    return encode(encoder.tokenizer.decode(words[: max(0, len(words) + longest - len(ids))]))[:longest]
