"""Reads tekken.json, Mistral's own form of a byte-level BPE.

"config" has the `pattern` that cuts words, `default_vocab_size`, `default_num_special_tokens` and the `version` of the
format of conversations; "vocab" has entries of `rank` and `token_bytes` in base64; "special_tokens" has `rank` and
`token_str`. Special tokens have the first ids, up to their number; what no entry names is <SPECIAL_i>. Two neighbours
are merged in the order of the ranks of what they make.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from octavo.errors import ModelLoadError
from octavo.text.rust_errors import loading
from octavo.text.token_bytes import byte_alphabet
from octavo.text.tokenizer_limits import MAX_TOKEN_CHARACTERS, MAX_VOCABULARY, check_count, check_unique
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import read_json

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_JSON_BUDGET = 1 << 30
_LONGEST_TOKEN = 1024  # bytes; every place where one may be cut is looked at
# Those of files without a list, which are older than it.
_OLD_SPECIAL = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
]
_LATEST = 13  # version of conversations that is written here

# Conversations of text. What is said twice in a row is one message. Before version 7, what the system says begins the
# last question.
_TEMPLATE = """\
{%- if tools %}{{ raise_exception('tools need a chat template of the model, which has none') }}{% endif -%}
{%- set said = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n\\n') -%}
{%- set chat = messages if HAS_SYSTEM else messages | rejectattr('role', 'equalto', 'system') | list -%}
{%- set last = namespace(question=-1) -%}
{%- for message in chat -%}
  {%- if message.role == 'user' and (loop.first or loop.previtem.role != 'user') %}{% set last.question = loop.index0 %}
  {%- endif -%}
{%- endfor -%}
{{- bos_token -}}
{%- for message in chat -%}
  {%- set begins = loop.first or loop.previtem.role != message.role -%}
  {%- set ends = loop.last or loop.nextitem.role != message.role -%}
  {%- if message.role == 'system' -%}
    [SYSTEM_PROMPT]{{ message.content }}[/SYSTEM_PROMPT]
  {%- elif message.role == 'user' -%}
    {{- '[INST]' if begins else '\\n\\n' -}}
    {%- if said and not HAS_SYSTEM and loop.index0 == last.question %}{{ said + '\\n\\n' }}{% endif -%}
    {{- message.content -}}
    {%- if ends %}[/INST]{% endif -%}
  {%- elif message.role == 'assistant' and not message.tool_calls -%}
    {{- '' if begins else '\\n\\n' -}}
    {{- message.content -}}
    {%- if ends %}{{ eos_token }}{% endif -%}
  {%- else -%}
    {{- raise_exception('only system, user and assistant messages of text are known; give a chat template') -}}
  {%- endif -%}
{%- endfor -%}
"""


def read_tekken(file: Path) -> tuple[tokenizers.Tokenizer, str | None]:
    """The tokenizer, and a chat template for conversations of text, if the version is known. Raises ModelLoadError."""
    values = read_json(file, _JSON_BUDGET)
    config = ConfigReader.of_file(values, file).object("config")
    special = _special_tokens(file, values.get("special_tokens"))
    count = config.integer("default_num_special_tokens", len(special), low=len(special), high=MAX_VOCABULARY)
    check_count(file, "special_tokens", count)
    special += [f"<SPECIAL_{i}>" for i in range(len(special), count)]
    ranks = _ranks(file, values.get("vocab"), config, count)
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    spelled = {token: "".join([letters[byte] for byte in token]) for token in ranks}
    vocabulary = check_unique([*special, *spelled.values()], file, "vocab")
    merges = _merges(ranks, spelled)
    with loading(file, "config.pattern"):
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
        words = pre_tokenizers.Split(Regex(config.text("pattern")), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
        backend.decoder = decoders.ByteLevel()
        backend.add_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return backend, _template(config.text("version", ""), special)


def _special_tokens(file: Path, entries: Any) -> list[str]:
    """Their texts by rank."""
    if entries is None:
        return list(_OLD_SPECIAL)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ModelLoadError(file, "special_tokens", "must be a list of objects")
    check_count(file, "special_tokens", len(entries))
    found: dict[Any, Any] = {entry.get("rank"): entry.get("token_str") for entry in entries}
    texts = []
    for rank in range(len(entries)):
        text = found.get(rank)
        if not isinstance(text, str) or not 0 < len(text) <= MAX_TOKEN_CHARACTERS:
            raise ModelLoadError(file, f"special_tokens[{rank}]", "no entry of this rank has a token_str")
        texts.append(text)
    return texts


def _ranks(file: Path, entries: Any, config: ConfigReader, num_special: int) -> dict[bytes, int]:
    """The bytes of the tokens that are used, by rank."""
    if not isinstance(entries, list) or not entries:
        raise ModelLoadError(file, "vocab", "must be a list of tokens")
    check_count(file, "vocab", len(entries), MAX_VOCABULARY)
    whole = config.integer("default_vocab_size", num_special + len(entries), high=num_special + len(entries))
    ranks: dict[bytes, int] = {}
    for rank, entry in enumerate(entries[: whole - num_special]):
        field = f"vocab[{rank}]"
        try:
            token = base64.b64decode(entry["token_bytes"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise ModelLoadError(file, field, "must have token_bytes in base64") from None
        if entry.get("rank", rank) != rank:
            raise ModelLoadError(file, field, f"has rank {entry['rank']!r:.40}; they must be in order")
        if not 0 < len(token) <= _LONGEST_TOKEN or token in ranks:
            reason = f"has {len(token)} bytes, 1 to {_LONGEST_TOKEN} are accepted, or is there twice"
            raise ModelLoadError(file, field, reason)
        ranks[token] = rank
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ModelLoadError(file, "vocab", f"has no token for the byte {missing[0]}")
    return ranks


def _merges(ranks: dict[bytes, int], spelled: dict[bytes, str]) -> list[tuple[str, str]]:
    """All pairs that make a token, in the order of these."""
    return [
        (spelled[token[:cut]], spelled[token[cut:]])
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]


def _template(version: str, special: list[str]) -> str | None:
    number = re.fullmatch(r"v([0-9]{1,3})", version)
    if number is None or not 3 <= int(number[1]) <= _LATEST or not {"[INST]", "[/INST]"} <= set(special):
        return None
    has_system = int(number[1]) >= 7 and {"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"} <= set(special)
    return _TEMPLATE.replace("HAS_SYSTEM", str(has_system).lower())
