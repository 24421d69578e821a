"""How byte-level BPE vocabularies of GGUF files cut text before merging: `tokenizer.ggml.pre`.

The names are llama.cpp's (llama-vocab.cpp). Each is mapped to what the model's own tokenizer.json has, which
llama.cpp's regular expressions imitate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.normalizers import NFC, Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Punctuation, Sequence, Split

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s+(?!\S)|\s+"
_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_SPACES}"
_LINES = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
_LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_LINES}"
_QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_LINES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
)
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    rf"| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]|{_SPACES}"
)
_SEED = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}"
    rf"| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|{_SPACES}"
)
_UFAKZEKA = rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_LINES}"  # Qwen2's without contractions
_MINICPM5 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}+|{_LINES}"
_JAIS2 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)"
    r"|\s{1,2}(?!\S)|\s{1}"
)
_EXAONE_MOE = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_SPACES}"
)
# Words of upper-case letters, then lower-case ones; scripts without case count as both.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_SPACES}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_TAIL}"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?|\p{{N}}{{1,3}}|{_CASED_TAIL}"
)
_YOUTU = _GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")
_CASED = _GPT4O.partition(r"|\p{N}")[0]
_KIMI = (  # Han is cut from all else
    r"\p{Han}+|"
    + _CASED.replace(_UPPER, rf"[{_UPPER}&&[^\p{{Han}}]]").replace(_LOWER, rf"[{_LOWER}&&[^\p{{Han}}]]")
    + rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
)
_GRANITE_EMBEDDING = _GPT4O.replace(_UPPER, r"(?:(?=[\p{L}\p{M}])[^a-z])")
_GRANITE_EMBEDDING = _GRANITE_EMBEDDING.replace(_LOWER, r"(?:(?=[\p{L}\p{M}])[^A-Z])")
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
)
_SPARK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_SPACES}"
)
_HAN_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
# Runs of digits are cut so that every part but the first has three.
_THREES = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
_ASIAN = (  # scripts of AFMoE that are written without spaces
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_YOUTU_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_CHAMELEON = (
    "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]", _GPT2,
)  # fmt: skip
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
# DeepSeek LLM's letters: those of scripts with upper and lower case, in an older version of Unicode.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)


@dataclass(frozen=True)
class PreTokenization:
    """One kind. `ignore_merges` takes a word that is a token as it is; `add_bos` is for files that do not say."""

    pre_tokenizer: PreTokenizer
    normalizer: Normalizer | None = None
    ignore_merges: bool = False
    add_bos: bool = False


def _splits(*patterns: str) -> PreTokenizer:
    """Each pattern in turn cuts out its matches; what lies between them is kept as well."""
    steps = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return Sequence([*steps, ByteLevel(add_prefix_space=False, use_regex=False)])


def _digits() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def _falcon() -> PreTokenizer:
    digits = [Digits(individual_digits=False), Split(Regex("[0-9][0-9][0-9]"), "isolated")]
    return Sequence([Punctuation("contiguous"), ByteLevel(add_prefix_space=False), *digits])


def _deepseek_llm() -> PreTokenizer:
    punctuation = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
    return _splits(r"[\r\n]", rf"\s?[{_CASED_LETTERS}]+", punctuation, r"\s+$", _CJK, r"\p{N}+")


# By the names that share a kind.
_KINDS: dict[str, Callable[[], PreTokenization]] = {
    "default": lambda: PreTokenization(_splits(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum exaone4 jais trillion granite-docling "
    "roberta-bpe jina-v1-en jina-v2-code": (lambda: PreTokenization(ByteLevel(add_prefix_space=False))),
    "mpt olmo modern-bert": lambda: PreTokenization(ByteLevel(add_prefix_space=False), NFC()),
    "smollm starcoder refact codeshell exaone minerva-7b mellum2": lambda: PreTokenization(_digits()),
    "command-r": lambda: PreTokenization(_digits(), NFC()),
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": (
        lambda: PreTokenization(_splits(_LLAMA3), ignore_merges=True, add_bos=True)
    ),
    "dbrx smaug-bpe chatglm-bpe": lambda: PreTokenization(_splits(_LLAMA3)),
    "glm4 glm5": lambda: PreTokenization(_splits(_LLAMA3), ignore_merges=True),
    "jais-2": lambda: PreTokenization(_splits(_JAIS2)),
    "minicpm5": lambda: PreTokenization(_splits(r"\p{N}{1,3}", _MINICPM5), ignore_merges=True),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez": lambda: PreTokenization(_splits(_QWEN2), NFC()),
    "stablelm2 hunyuan solar-open grok-2": lambda: PreTokenization(_splits(_QWEN2)),
    "qwen35": lambda: PreTokenization(_splits(_QWEN35), NFC()),
    "tekken": lambda: PreTokenization(_splits(_TEKKEN), ignore_merges=True, add_bos=True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": lambda: PreTokenization(_splits(_GPT4O)),
    "youtu": lambda: PreTokenization(_splits(_YOUTU_SCRIPTS, _YOUTU), ignore_merges=True),
    "tiny_aya cohere2moe": lambda: PreTokenization(_splits(r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    "granite-embed-multi-97m": lambda: PreTokenization(_splits(_GRANITE_EMBEDDING), ignore_merges=True),
    "kimi-k2": lambda: PreTokenization(_splits(_KIMI)),
    "laguna": lambda: PreTokenization(_splits(r"[^\n]+|[\n]+", _QWEN2)),
    "ufakzeka": lambda: PreTokenization(_splits(_UFAKZEKA)),
    "exaone-moe": lambda: PreTokenization(_splits(_EXAONE_MOE)),
    "superbpe": lambda: PreTokenization(_splits(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "spark2_5": lambda: PreTokenization(_splits(r"\p{N}{1,3}", _HAN_KANA, _SPARK, r"\p{N}")),
    "afmoe": lambda: PreTokenization(_splits(_THREES, _ASIAN, _DEEPSEEK3)),
    "chameleon": lambda: PreTokenization(_splits(*_CHAMELEON), add_bos=True),
    "falcon": lambda: PreTokenization(_falcon()),
    "deepseek-llm": lambda: PreTokenization(_deepseek_llm()),
    "deepseek-coder": lambda: PreTokenization(_splits(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": (
        lambda: PreTokenization(_splits(r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK3))
    ),
    "bloom poro-chat gpt3-finnish": lambda: PreTokenization(_splits(_BLOOM)),
    "viking": lambda: PreTokenization(_splits(_BLOOM, r"\p{N}")),
    "bailingmoe bailingmoe2 llada-moe": lambda: PreTokenization(_splits(_BAILING)),
    "seed-coder": lambda: PreTokenization(_splits(_SEED)),
}
# Those of vocabularies that are text, with a mark for spaces, and <0x00> and so on for bytes that no token has.
RAW_KINDS = ("gemma4", "sarvam-moe", "granite-embed-multi-311m")
# What makes the pre-tokenization of a `tokenizer.ggml.pre`, by name.
PRE_TOKENIZATIONS = {name: make for names, make in _KINDS.items() for name in names.split()}
