"""`Tokenizer`: text to token ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import tokenizers

from octavo.errors import PromptError
from octavo.text.rust_errors import is_rust_panic
from octavo.text.token_bytes import byte_decoding

LONG_TEXT = 2000  # characters; others wait about a millisecond while a shorter one is encoded


class Tokenizer:
    """A model's tokenizer: the Rust library's, with the rules that Hugging Face's Python classes add.

    It can be used from several threads. Nothing is made per token of the vocabulary before it is needed.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        named: Mapping[str, str] | None = None,
        add_bos: bool | None = None,
        add_eos: bool | None = None,
        chat_template: str | None = None,
    ):
        """`named` maps "bos_token", "eos_token", "unk_token", "pad_token" … to token texts. `add_bos` and `add_eos` say
        what `add_special_tokens` puts around a text; None leaves that to the post-processor of the backend.
        """
        self.backend = backend
        self.backend.no_padding()
        self.backend.no_truncation()
        self.special_tokens_map = dict(named or {})
        self.chat_template = chat_template
        self.added_tokens = self.backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in self.added_tokens.items() if token.special)
        self.bos_token_id = self._named_id("bos_token")
        self.eos_token_id = self._named_id("eos_token")
        self.pad_token_id = self._named_id("pad_token")
        self.vocab_size: int = self.backend.get_vocab_size(with_added_tokens=True)
        self.byte_decoding = byte_decoding(self.backend)
        # With explicit flags the ids are put around the text here: library templates can't hold every token.
        self._use_post_processor = add_bos is None and add_eos is None
        self._prefix = [self.bos_token_id] if add_bos and self.bos_token_id is not None else []
        self._suffix = [self.eos_token_id] if add_eos and self.eos_token_id is not None else []

    def __len__(self) -> int:
        return self.vocab_size

    @cached_property
    def longest_token(self) -> int:
        """Characters of text that the longest token may stand for."""
        return max(map(len, self.backend.get_vocab(with_added_tokens=True)), default=1)

    def lower_case(self) -> None:
        """Makes it read texts in lower case, but for special tokens."""
        before, lower = self.backend.normalizer, tokenizers.normalizers.Lowercase()
        self.backend.normalizer = lower if before is None else tokenizers.normalizers.Sequence([lower, before])

    def keep_whole(self, text: str) -> None:
        """Makes a token of the vocabulary, or one with a space behind it, be that token wherever a text has it."""
        found = next((one for one in (text, text.rstrip()) if one and self.token_id(one) is not None), None)
        if found is not None:
            self.backend.add_special_tokens([tokenizers.AddedToken(found, normalized=False, special=True)])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Texts of special tokens become those tokens.

        Raises PromptError if it is not Unicode.
        """
        native = add_special_tokens and self._use_post_processor
        try:
            if len(text) < LONG_TEXT:
                ids: list[int] = self.backend.encode(text, add_special_tokens=native).ids
            else:  # only for batches, which cost a little more, the library leaves the GIL to other threads
                ids = self.backend.encode_batch_fast([text], add_special_tokens=native)[0].ids
        except BaseException as error:
            raise _encode_error([text], error) from None
        return [*self._prefix, *ids, *self._suffix] if add_special_tokens else ids

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """Like `encode` for each text, on several cores."""
        native = add_special_tokens and self._use_post_processor
        try:
            batch = self.backend.encode_batch_fast(list(texts), add_special_tokens=native)
        except BaseException as error:
            raise _encode_error(texts, error) from None
        if not add_special_tokens:
            return [encoding.ids for encoding in batch]
        return [[*self._prefix, *encoding.ids, *self._suffix] for encoding in batch]

    def encode_pair(self, first: str, second: str, longest: int | None = None) -> tuple[list[int], int]:
        """Token ids of two texts that are read together, and how many of them come before the second text.

        To have at most `longest`, the longer of the texts is cut, and then both alike. Raises PromptError.
        """
        native = self._use_post_processor and self.backend.post_processor is not None
        try:
            one, other = (self.backend.encode(text, add_special_tokens=False) for text in (first, second))
            if longest is not None:
                ends = 2 * (len(self._prefix) + len(self._suffix))
                added = self.backend.num_special_tokens_to_add(True) if native else ends
                for encoding, length in zip((one, other), _cut_to(longest - added, len(one), len(other)), strict=True):
                    encoding.truncate(length)
            if not native:
                begin, end = ([*self._prefix, *text.ids, *self._suffix] for text in (one, other))
                return begin + end, len(begin)
            whole = self.backend.post_process(one, other)
        except BaseException as error:
            raise _encode_error([first, second], error) from None
        return whole.ids, whole.type_ids.index(1) if 1 in whole.type_ids else 0

    def beginning(self, text: str, count: int) -> str:
        """What the first `count` tokens of a text stand for. Raises PromptError."""
        try:
            offsets = self.backend.encode(text, add_special_tokens=False).offsets
        except BaseException as error:
            raise _encode_error([text], error) from None
        return text if len(offsets) <= count else text[: offsets[count - 1][1]]

    def with_special_tokens(self, ids: list[int]) -> list[int]:
        """The ids of a text, between those that `encode` puts around each text."""
        before, after = self._surroundings
        return [*before, *ids, *after]

    @cached_property
    def _surroundings(self) -> tuple[list[int], list[int]]:
        bare, whole = self.encode("a", add_special_tokens=False), self.encode("a")
        begin = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return whole[:begin], whole[begin + len(bare) :]

    def decode(
        self, ids: Iterable[int], skip_special_tokens: bool = True, spaces_between_special_tokens: bool = True
    ) -> str:
        """The text of `ids`; ids outside the vocabulary have no text. Bytes that are not UTF-8 become U+FFFD.

        `spaces_between_special_tokens=False` matters only to decoders that join tokens with spaces
        (WordPiece); those of language models do not.
        """
        ids = [i for i in ids if i not in self.special_ids] if skip_special_tokens else list(ids)
        if self.byte_decoding is None:
            return self._decode_by_library(ids, spaces_between_special_tokens)
        table = self.byte_decoding.table
        text = b"".join([table[i] for i in ids]).decode(errors=self.byte_decoding.errors)
        return text.removeprefix(" ") if self.byte_decoding.strip_first_space else text

    def _decode_by_library(self, ids: list[int], spaces_between_special_tokens: bool) -> str:
        cuts = [0, len(ids)]
        if not spaces_between_special_tokens:
            added = self.added_tokens
            cuts[1:1] = [i for i in range(1, len(ids)) if ids[i] in added and ids[i - 1] in added]
        parts = [ids[start:end] for start, end in pairwise(cuts)]
        return "".join([self._library_text(part) for part in parts])

    def _library_text(self, ids: list[int]) -> str:
        """U+FFFD where the library fails: this is called while the tokens of others are decoded too."""
        try:
            return str(self.backend.decode(ids, skip_special_tokens=False))
        except BaseException as error:
            if not isinstance(error, Exception) and not is_rust_panic(error):
                raise
            return "\ufffd"

    def token(self, token_id: int) -> str:
        """The text of one token, as logprobs show it: with its space, parts of characters as U+FFFD."""
        if self.byte_decoding is None:
            return self._library_text([token_id])
        return self.byte_decoding.table[token_id].decode(errors=self.byte_decoding.errors)

    def spelling(self, token_id: int) -> str:
        """One token as the vocabulary writes it, such as "Ġthe"; nothing for an id outside of it."""
        return str(self.backend.id_to_token(token_id) or "")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, exact also for a part of a character."""
        if self.byte_decoding is None:
            return self.token(token_id).encode()
        return self.byte_decoding.table[token_id]

    def token_id(self, token: str) -> int | None:
        """The id of a token by its text in the vocabulary, None if it has none."""
        found: int | None = self.backend.token_to_id(token)
        return found

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens_map.get(name)
        return None if token is None else self.token_id(token)


def _cut_to(room: int, first: int, second: int) -> tuple[int, int]:
    """What of two lengths fits into `room`, as transformers' "longest_first" has it."""
    shorter = min(first, second, max(room, 0) // 2)
    longer = min(max(first, second), max(room, 0) - shorter)
    return (longer, shorter) if first > second else (shorter, longer)


def _encode_error(texts: Sequence[str], error: BaseException) -> BaseException:
    """What to raise for an error of the Rust library; whatever is not its own is given back."""
    if not isinstance(error, Exception) and not is_rust_panic(error):
        return error
    for text in texts:
        if not isinstance(text, str):
            return PromptError(f"a prompt must be a string, got {type(text).__name__}")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            return PromptError("the text has lone surrogates, so it is not valid Unicode")
    return PromptError(f"the tokenizer failed on this text: {' '.join(str(error).split())[:200]}")
