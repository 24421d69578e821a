"""`HFTokenizer`: a model's tokenizer with the methods that Hugging Face's have, for scripts that ask for one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from octavo.errors import ParameterError, UnsupportedError
from octavo.text.chat import ChatEncoder
from octavo.text.chat_template import ChatTemplate
from octavo.text.tokenizer import Tokenizer

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class BatchEncoding(dict[str, Any]):
    """`input_ids` and `attention_mask`, as entries and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class HFTokenizer:
    """What `LLM.get_tokenizer()` gives. Results are those of transformers' tokenizer of the same files, as lists.

    `bos_token`, `eos_token`, `unk_token`, `pad_token`, … are texts, or None; with `_id` they are ids.
    """

    is_fast = True
    padding_side = truncation_side = "right"
    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, name: str, max_length: int):
        """`template` is the one that the engine uses; `max_length` is what it takes, in tokens."""
        self._tokenizer = tokenizer
        self._template = template
        self.name_or_path = name
        self.model_max_length = max_length

    def __len__(self) -> int:
        """Tokens of the vocabulary, with the added ones."""
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Any:
        base = name.removesuffix("_id")
        if base not in _NAMED:
            raise AttributeError(f"the tokenizer has no attribute {name!r}")
        token = self.special_tokens_map.get(base)
        return token if token is None or base == name else self._tokenizer.token_id(token)

    @property
    def chat_template(self) -> str | None:
        return None if self._template is None else self._template.source

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Texts by name."""
        return {name: text for name, text in self._tokenizer.special_tokens_map.items() if name in _NAMED}

    @cached_property
    def all_special_tokens(self) -> list[str]:
        """The named ones; `decode` skips the others too that the tokenizer marks as special."""
        return list(dict.fromkeys(self.special_tokens_map[name] for name in _NAMED if name in self.special_tokens_map))

    @property
    def all_special_ids(self) -> list[int]:
        return self.convert_tokens_to_ids(self.all_special_tokens)  # type: ignore[no-any-return]

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without the added ones."""
        return int(self._tokenizer.backend.get_vocab_size(with_added_tokens=False))

    @property
    def vocab(self) -> dict[str, int]:
        return self.get_vocab()

    def get_vocab(self) -> dict[str, int]:
        """Ids by token, with the added ones."""
        return dict(self._tokenizer.backend.get_vocab(with_added_tokens=True))

    def get_added_vocab(self) -> dict[str, int]:
        return {token.content: i for i, token in sorted(self._tokenizer.added_tokens.items())}

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[str]:
        """Tokens as the vocabulary spells them."""
        return self.convert_ids_to_tokens(self._tokenizer.encode(text, add_special_tokens))  # type: ignore[no-any-return]

    def encode(
        self, text: str, *, add_special_tokens: bool = True, truncation: bool = False, max_length: int | None = None
    ) -> list[int]:
        """Token ids. Raises PromptError if `text` is not Unicode."""
        ids = self._tokenizer.encode(text, add_special_tokens)
        return self._cut(ids, len(ids) - len(self._tokenizer.encode(text, False)), truncation, max_length)

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """The `input_ids` of a text or of several, and the `attention_mask`, which is 0 where they are padded.

        `padding` is False, True (to the longest) or "max_length". Raises UnsupportedError if `return_tensors` asks for
        another thing than "np", ParameterError for other bad values.
        """
        if return_tensors not in (None, "np"):
            raise UnsupportedError("return_tensors", return_tensors, "lists are returned, or arrays for 'np'")
        if padding not in (False, True, "longest", "max_length", "do_not_pad"):
            raise ParameterError("padding", padding, "False, True, 'longest' or 'max_length'")
        texts = [text] if isinstance(text, str) else list(text)
        options: dict[str, Any] = {"truncation": truncation, "max_length": max_length}
        rows = [self.encode(one, add_special_tokens=add_special_tokens, **options) for one in texts]
        masks = [[1] * len(row) for row in rows]
        if padding not in (False, "do_not_pad"):
            longest = max(map(len, rows), default=0) if padding != "max_length" else max_length or self.model_max_length
            if self.pad_token_id is None:
                raise ParameterError("padding", padding, "False: the tokenizer has no padding token")
            masks = [mask + [0] * (longest - len(mask)) for mask in masks]
            rows = [row + [self.pad_token_id] * (longest - len(row)) for row in rows]
        found = {"input_ids": rows, "attention_mask": masks}
        if return_tensors == "np":
            import numpy as np

            return BatchEncoding({name: np.array(lists) for name, lists in found.items()})
        return BatchEncoding({name: lists[0] if isinstance(text, str) else lists for name, lists in found.items()})

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **ignored: bool | None) -> Any:
        """The text of token ids, or the texts of several lists of them. No spaces are cleaned up."""
        _check_cleaning(ignored)
        ids = _plain(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list | tuple):
            return [self._tokenizer.decode(row, skip_special_tokens) for row in ids]
        return self._tokenizer.decode([ids] if isinstance(ids, int) else ids, skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **ignored: bool | None) -> list[str]:
        """The text of each of `sequences`; also of each token, if it is a list of ids."""
        return [self.decode(sequence, skip_special_tokens, **ignored) for sequence in _plain(sequences)]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token as the vocabulary spells it, or those of several; unknown ones have `unk_token_id`."""
        if isinstance(tokens, str):
            found = self._tokenizer.token_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The spelling of a token in the vocabulary, or those of several; None for an id outside of it."""
        ids = _plain(ids)
        if isinstance(ids, int):
            return self._tokenizer.backend.id_to_token(ids)
        skipped = self._tokenizer.special_ids if skip_special_tokens else ()
        return [self._tokenizer.backend.id_to_token(i) for i in ids if i not in skipped]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """The text of tokens that are spelled as in the vocabulary."""
        return str(self._tokenizer.backend.decoder.decode(list(tokens)))

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        return_dict: bool = True,
        **variables: Any,
    ) -> Any:
        """The prompt of a conversation, or of each of a list of them: a BatchEncoding, ids, or text.

        What is in a message never becomes a control token. Raises ChatTemplateError.
        """
        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        template = self._template
        if chat_template is not None:
            template = ChatTemplate(chat_template, self._tokenizer.special_tokens_map)
        encoder = ChatEncoder(self._tokenizer, template)
        prompts = [
            encoder.encode(
                messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                documents=documents,
                template_kwargs=variables,
            )
            for messages in (conversation if several else [conversation])
        ]
        rows: list[Any] = [prompt.token_ids if tokenize else prompt.text for prompt in prompts]
        found = rows if several else rows[0]
        if not (tokenize and return_dict):
            return found
        masks = [[1] * len(row) for row in rows]
        return BatchEncoding(input_ids=found, attention_mask=masks if several else masks[0])

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str | None:
        return self.chat_template if chat_template is None else chat_template

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        if pair:
            raise UnsupportedError("pair", pair, "texts are encoded one by one")
        return len(self._tokenizer.encode("", add_special_tokens=True))

    def _cut(self, ids: list[int], added: int, truncation: bool, max_length: int | None) -> list[int]:
        """Shortens the text, not what stands around it."""
        limit = self.model_max_length if max_length is None else max_length
        if not truncation or len(ids) <= limit:
            return ids
        if added:
            raise UnsupportedError("truncation", truncation, "of a text with special tokens; add_special_tokens=False")
        return ids[:limit]


def _plain(ids: Any) -> Any:
    """Lists and integers of what may be arrays."""
    ids = ids.get("input_ids", ids) if isinstance(ids, Mapping) else ids
    return ids.tolist() if hasattr(ids, "tolist") else ids


def _check_cleaning(options: Mapping[str, bool | None]) -> None:
    for name, value in options.items():
        if name not in ("clean_up_tokenization_spaces", "spaces_between_special_tokens"):
            raise ParameterError(name, value, "left out: decode has no such option")
        if name == "clean_up_tokenization_spaces" and value:
            raise UnsupportedError(name, value, "texts are decoded as they were encoded")
