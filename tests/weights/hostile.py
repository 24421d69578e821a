"""Small whole checkpoints, and what an attacker might change in their files."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import quantizers
from writers import ARRAY, BOOL, F32, I32, STRING, U8, U32, U64, array, gguf, key_value, tensor_info

from checkpoints import GGUF_NAMES
from cli.conftest import CHAT_TEMPLATE, CONFIG, byte_tokenizer, make_tiny_llama, random_weights

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 255, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 63, -(1 << 63), 1 << 100),
    *(0.5, -0.0, 1e-320, 1e30, -1e308, math.inf, -math.inf, "", "x", "\n", "\0", "\ud800", "😀", "x" * 100_000),
    *([], {}, [[]], [None], [True], [-1], [0], [1 << 40], ["x"], [[0, 0]], [[0]], [[99, 0]], list(range(3000))),
    *({"": None}, {"x": 1}, {"content": 1}, {"type": "yarn"}, {"rope_type": "longrope"}, {"type": "Sequence"}),
    *("LlamaForCausalLM", "WhisperForConditionalGeneration", "yarn", "(a+)+$", "{% for x in y %}", "{{ 'x' * 9999 }}"),
]
# Entries that the small checkpoints lack, and others have.
ENTRIES = """
    sliding_window rope_scaling rope_parameters rope_theta hidden_act attention_bias mlp_bias eos_token_id
    bos_token_id suppress_tokens begin_suppress_tokens alignment_heads is_multilingual num_mel_bins
    max_source_positions max_target_positions max_new_tokens temperature top_p top_k min_p repetition_penalty
    scale_embedding activation_function added_tokens_decoder extra_special_tokens additional_special_tokens
    add_bos_token add_eos_token unk_token pad_token chat_template tokenizer_class legacy factor
    original_max_position_embeddings low_freq_factor high_freq_factor short_factor long_factor beta_fast mscale
    rope_type truncation padding normalizer decoder post_processor pre_tokenizer byte_fallback dropout unk_id
    prepend pattern content decoders normalizers
"""
# Parts of a tokenizer that the library knows, with what it may not expect in them.
REGEX = {"pattern": {"Regex": "(a|aa)+$b"}, "behavior": "Isolated", "invert": False}
COMPONENTS: dict[str, list[Any]] = {
    "normalizer": [
        {"type": "Prepend", "prepend": ""},
        {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
        {"type": "Replace", "pattern": {"Regex": "("}, "content": "x"},
        {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="},
        {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAD/////"},
        {"type": "Sequence", "normalizers": []},
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
    ],
    "pre_tokenizer": [
        {"type": "Split", **REGEX},
        {"type": "Split", **REGEX, "pattern": {"Regex": "x*"}},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "CharDelimiterSplit", "delimiter": "a"},
        {"type": "Sequence", "pretokenizers": []},
        {"type": "FixedLength", "length": 0},
    ],
    "decoder": [
        {"type": "WordPiece", "prefix": "", "cleanup": True},
        {"type": "CTC", "pad_token": "a", "word_delimiter_token": "|", "cleanup": True},
        {"type": "Strip", "content": "a", "start": 1 << 40, "stop": 1 << 40},
        {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
        {"type": "Replace", "pattern": {"Regex": "(a|aa)+$b"}, "content": "x"},
    ],
    "post_processor": [
        {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
        {"type": "BertProcessing", "sep": ["x", 1 << 31], "cls": ["y", 0]},
        {"type": "RobertaProcessing", "sep": ["x", 9], "cls": ["y", 0], "trim_offsets": True, "add_prefix_space": True},
        {"type": "Sequence", "processors": []},
    ],
    "model": [
        {"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0], ["b", -1.0]], "byte_fallback": False},
        {"type": "Unigram", "unk_id": None, "vocab": [["a", 1e308]], "byte_fallback": True},
        {"type": "WordLevel", "vocab": {"a": 4_000_000_000}, "unk_token": "x"},
        {
            "type": "WordPiece",
            "vocab": {},
            "unk_token": "x",
            "continuing_subword_prefix": "",
            "max_input_chars_per_word": 0,
        },
        {"type": "BPE", "vocab": {"a": 0, "b": 7}, "merges": [], "unk_token": "x", "dropout": 1.0},
    ],
}
WEIGHTS = "model.safetensors"
GENERATION = {"eos_token_id": 1, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "max_new_tokens": 8}
ROPE = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256}


def make_text(path: Path) -> None:
    make_tiny_llama(path, rope_scaling=ROPE)
    (path / "generation_config.json").write_text(json.dumps(GENERATION))


# Methods of quantized checkpoints, each with a writer of a matrix.
QUANTIZED: dict[str, tuple[dict[str, Any], quantizers.Writer]] = {
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 32}, quantizers.gptq()),
    "act-order": ({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, quantizers.gptq(3, 32, 2, "mixed")),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32}, quantizers.awq()),
    "packed": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}},
        },
        quantizers.compressed(
            "pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=False
        ),
    ),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, quantizers.fp8("block", ".weight_scale_inv")),
    "nvfp4": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, quantizers.nvfp4()),
    "nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, quantizers.bitsandbytes("nf4", nested=True)),
    "int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, quantizers.bitsandbytes_int8),
}


def make_quantized(path: Path) -> None:
    make_tiny_llama(path)
    quantizers.quantize(path, *QUANTIZED[path.name])


def make_speech(path: Path) -> None:
    from speech.tiny_whisper import make_tiny_whisper

    make_tiny_whisper(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80, "sampling_rate": 16000}))


def metadata() -> dict[str, tuple[int, Any]]:
    """Of a GGUF file with its tokenizer: key -> (type, value); an array's value is (type, values)."""
    vocabulary = byte_tokenizer().get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    return {
        "general.architecture": (STRING, "llama"),
        "llama.block_count": (U32, CONFIG["num_hidden_layers"]),
        "llama.context_length": (U32, 512),
        "llama.embedding_length": (U32, CONFIG["hidden_size"]),
        "llama.feed_forward_length": (U32, CONFIG["intermediate_size"]),
        "llama.attention.head_count": (U32, CONFIG["num_attention_heads"]),
        "llama.attention.head_count_kv": (U32, CONFIG["num_key_value_heads"]),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "llama.rope.freq_base": (F32, 1e4),
        "llama.rope.scaling.type": (STRING, "yarn"),
        "llama.rope.scaling.factor": (F32, 2.0),
        "llama.rope.scaling.original_context_length": (U32, 256),
        "llama.expert_count": (U32, 0),
        "split.count": (U32, 1),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [3, 3] + [1] * (len(tokens) - 2))),
        "tokenizer.ggml.merges": (ARRAY, (STRING, [])),
        "tokenizer.ggml.bos_token_id": (U32, 0),
        "tokenizer.ggml.eos_token_id": (U32, 1),
        "tokenizer.ggml.add_bos_token": (BOOL, False),
        "tokenizer.chat_template": (STRING, CHAT_TEMPLATE),
    }


def write_gguf(path: Path, keys: dict[str, tuple[int, Any]]) -> None:
    vocab_size = len(byte_tokenizer().get_vocab())
    weights = random_weights({**CONFIG, "vocab_size": vocab_size})
    infos, data = [], b""
    for name, weight in weights.items():
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        infos.append(tensor_info(name, list(weight.shape)[::-1], 0, len(data)))
        content = weight.astype(np.float32).tobytes()
        data += content + bytes(-len(content) % 32)
    entries = [key_value(key, kind, array(*value) if kind == ARRAY else value) for key, (kind, value) in keys.items()]
    path.write_bytes(gguf(entries, infos, data))


def change_metadata(rng: random.Random, keys: dict[str, tuple[int, Any]]) -> None:
    """One change that the writer can still write."""
    key = rng.choice(list(keys))
    kind, value = keys[key]
    match rng.randrange(5):
        case 0:
            del keys[key]
        case 1 if kind == ARRAY and value[1]:
            values = [*value[1]]
            at = rng.randrange(len(values))
            if value[0] == STRING:
                values[at] = rng.choice(["", "x" * 9999, "<|end|>", values[0], "\n", "😀 😀"])
            else:
                values[at] = rng.choice([0, -1, 2**31 - 1, 4])
            keys[key] = (ARRAY, (value[0], rng.choice([values, values[:at], values * 2])))
        case 2 if kind != ARRAY:
            keys[key] = (ARRAY, (kind, rng.choice([[value], [value, value], []])))
        case 3:
            keys[key] = (STRING, rng.choice(["", "llama", "x" * 9999, "yarn", "none", "t5", "{{ 1", "[1]"]))
        case _:
            kind = rng.choice([U8, U32, U64, I32, F32, BOOL])
            choices = [0.0, -1.0, math.inf, math.nan, 1e-40] if kind == F32 else [0, 1, 2, 255]
            if kind in (U32, U64):
                choices += [2**31, 2**32 - 1]
            if kind == I32:
                choices += [-1, -(2**31)]
            keys[key] = (kind, rng.choice(choices[:2] if kind == BOOL else choices))


def change_json(rng: random.Random, data: bytes) -> bytes:
    """One to three changes of a JSON file: of its values mostly, of its bytes sometimes."""
    if rng.random() < 0.05:
        cut = rng.randrange(len(data))
        return rng.choice([data[:cut], data[:cut] + b"\xff" + data[cut:], data + b"{}", b"", b"[" * 100_000])
    value = json.loads(data)
    if "model" in value and rng.random() < 0.5:
        for name in rng.sample([*COMPONENTS], rng.choice((1, 2))):
            value[name] = copy.deepcopy(rng.choice(COMPONENTS[name]))
        return json.dumps(value).encode()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        # The entries near the root are few and matter most; vocabularies are many.
        container, key = rng.choice([p for p in places if rng.random() < 8 / (8 + len(p[0]))] or places)
        new = copy.deepcopy(rng.choice(VALUES))
        match rng.randrange(6):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[rng.choice(ENTRIES.split())] = new
            case 2:
                container[key] = [container[key]] * rng.choice((1, 2, 50))
            case 3 if isinstance(container[key], int | float) and not isinstance(container[key], bool):
                container[key] = rng.choice([container[key] + 1, -container[key], container[key] * 1000])
            case _:
                container[key] = new
        if not value:
            break
    return json.dumps(value).replace("Infinity", "1e400").encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pending = [value]
    while pending:
        container = pending.pop()
        keys = range(len(container)) if isinstance(container, list) else list(container)
        for key in keys:
            yield container, key
            if isinstance(container[key], list | dict):
                pending.append(container[key])


def change_tensors(rng: random.Random, data: bytes) -> bytes:
    """A change of the header of a safetensors file, or of some numbers of one tensor."""
    begin = 8 + int.from_bytes(data[:8], "little")
    if rng.random() < 0.4:
        header = change_json(rng, data[8:begin])
        return len(header).to_bytes(8, "little") + header + data[begin:]
    entries = json.loads(data[8:begin])
    first, end = rng.choice([entry["data_offsets"] for name, entry in entries.items() if name != "__metadata__"])
    content = bytearray(data)
    for _ in range(rng.choice((1, 4, 64))):
        content[begin + rng.randrange(first, end)] = rng.choice([0, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(content)


class Mutants:
    """Checkpoints with hostile changes, one after another in the same folder; a seed makes always the same ones."""

    def __init__(self, folder: Path):
        self._whole, self.path = folder / "whole", folder / "mutant"
        makers = {"text": make_text, "speech": make_speech, **dict.fromkeys(QUANTIZED, make_quantized)}
        for name, make in makers.items():
            make(self._whole / name)
        self._files = {
            kind: sorted(file for file in (self._whole / kind).iterdir() if file.suffix == ".json")
            for kind in ("text", "speech")
        }

    def make(self, seed: int) -> Path:
        """A directory or a GGUF file."""
        rng = random.Random(seed)
        kind = rng.choice(("text", "text", "speech", "gguf", "quantized", "quantized"))
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        if kind == "gguf":
            keys = metadata()
            for _ in range(rng.choice((1, 1, 2))):
                change_metadata(rng, keys)
            write_gguf(self.path / "m.gguf", keys)
            return self.path / "m.gguf"
        names = [file.name for file in self._files[kind]] if kind in self._files else ["config.json", WEIGHTS]
        kind = kind if kind in self._files else rng.choice([*QUANTIZED])
        for file in (self._whole / kind).iterdir():
            (self.path / file.name).symlink_to(file)
        target = self.path / rng.choice(names)
        change = change_tensors if target.name == WEIGHTS else change_json
        content = change(rng, target.read_bytes())
        target.unlink()
        target.write_bytes(content)
        return self.path
