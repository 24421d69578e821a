"""Speed of text encoders with random weights, beside sentence-transformers, and fastembed on the same graph in ONNX.

    python benchmarks/embedding.py [SHAPE…] [--engines ENGINE:DTYPE…] [--peers PYTHON] [--texts 512] [--rounds 3]

PYTHON is an interpreter that has sentence-transformers, fastembed, onnx and onnxscript. Two workloads: texts of 16 to
256 tokens in texts per second, and one text of 32 tokens in milliseconds. Engines run in turn, each in a process of
its own, and the medians of the rounds are printed. Folders of the shapes are written once, to `--directory`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
ROBERTA = BERT | {
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "vocab_size": 250002,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}


def sizes(hidden: int, layers: int, heads: int) -> dict[str, int]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return dict(zip(names, (hidden, layers, heads, 4 * hidden), strict=True))


SHAPES: dict[str, dict[str, Any]] = {
    "minilm-l6": BERT | sizes(384, 6, 12),
    "bge-base": BERT | sizes(768, 12, 12),
    "bge-m3": ROBERTA | sizes(1024, 24, 16),
}
ENGINES = ("octavo:bfloat16", "octavo:float32", "octavo:int8")
PEERS = ("sentence-transformers:bfloat16", "sentence-transformers:float32", "fastembed:float32", "fastembed:int8")
THREADS = len(os.sched_getaffinity(0))
Embed = Callable[[list[str]], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), metavar="SHAPE", help=" or ".join(SHAPES))
    parser.add_argument("--engines", nargs="+", choices=ENGINES + PEERS, metavar="ENGINE:DTYPE")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter with sentence-transformers and fastembed")
    parser.add_argument("--texts", type=int, default=512, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--directory", type=Path, default=Path("~/.cache/octavo-bench/encoders").expanduser())
    parser.add_argument("--run", metavar="ENGINE:DTYPE", help=argparse.SUPPRESS)
    parser.add_argument("--export", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.export:
        export(args.directory)
        return 0
    if args.run:
        print("RESULT " + json.dumps(measure(args.run, args.directory, args.texts)))
        return 0
    engines = args.engines or (ENGINES + PEERS if args.peers else ENGINES)
    for shape in args.shapes:
        folder = args.directory / shape
        if not (folder / "model.safetensors").exists():
            write(folder, SHAPES[shape])
        if args.peers and not (folder / "model.int8.onnx").exists():
            subprocess.run([args.peers, "-P", __file__, "--export", "--directory", folder], check=True)
        compare(shape, folder, engines, args)
    return 0


def compare(shape: str, folder: Path, engines: list[str], args: argparse.Namespace) -> None:
    """Runs the engines in turn, and prints the medians."""
    found: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    for _ in range(args.rounds):
        for engine in engines:
            python = sys.executable if engine in ENGINES else args.peers
            command = [python, "-P", __file__, "--run", engine, "--directory", str(folder), "--texts", str(args.texts)]
            output = subprocess.run(command, capture_output=True, text=True)
            results = [line[7:] for line in output.stdout.splitlines() if line.startswith("RESULT ")]
            if not results:
                sys.exit(f"{engine} gave no result for {folder}:\n{output.stderr[-2000:]}")
            found[engine].append(json.loads(results[-1]))
    for engine, rounds in found.items():
        rate, wait = (statistics.median(one[key] for one in rounds) for key in ("texts_per_second", "milliseconds"))
        print(f"{shape:10} {engine:32} {rate:8.1f} texts/s   one text {wait:7.2f} ms", flush=True)


def texts_of(vocabulary: int, count: int) -> tuple[list[str], str]:
    """Texts of 16 to 256 tokens, the two around each counted, and one of 32."""
    rng = np.random.default_rng(7)

    def text(length: int) -> str:
        return " ".join(f"w{i}" for i in rng.integers(5, vocabulary, length - 2))

    return [text(int(length)) for length in rng.integers(16, 257, count)], text(32)


def measure(engine: str, folder: Path, count: int) -> dict[str, float]:
    name, dtype = engine.split(":")
    embed = {"octavo": octavo, "sentence-transformers": sentence_transformers, "fastembed": fastembed}[name](
        folder, dtype
    )
    texts, one = texts_of(json.loads((folder / "config.json").read_text())["vocab_size"], count)
    embed(texts[:16])
    waits = []
    for _ in range(60):
        begin = time.perf_counter()
        embed([one])
        waits.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    embed(texts)
    seconds = time.perf_counter() - begin
    return {"texts_per_second": count / seconds, "milliseconds": 1e3 * statistics.median(waits[10:])}


def octavo(folder: Path, dtype: str) -> Embed:
    from octavo import LLM

    options = {"quantization": "int8"} if dtype == "int8" else {"dtype": dtype}
    llm = LLM(str(folder), **options)
    return lambda texts: llm.embed(texts, use_tqdm=False)


def sentence_transformers(folder: Path, dtype: str) -> Embed:
    """It sorts texts by their lengths, and computes 32 at once."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    return lambda texts: model.encode(texts, convert_to_numpy=dtype == "float32", convert_to_tensor=dtype != "float32")


def fastembed(folder: Path, dtype: str) -> Embed:
    """It computes texts in the order that they come in: by their lengths, so that little is padded."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    file = "model.int8.onnx" if dtype == "int8" else "model.onnx"
    how = {"pooling": PoolingType.MEAN, "normalization": True, "sources": ModelSource(hf="random/random")}
    TextEmbedding.add_custom_model(model="random", dim=1, model_file=file, **how)
    model = TextEmbedding("random", specific_model_path=str(folder), threads=THREADS)
    return lambda texts: list(model.embed(sorted(texts, key=len), batch_size=32))


def write(folder: Path, config: dict[str, Any]) -> None:
    """A folder of sentence-transformers, with float32 weights."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    tensors: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}

    def add(name: str, *shape: int, scale: float = 0.02) -> None:
        tensors[name] = rng.standard_normal(shape, np.float32) * np.float32(scale)

    def linear(name: str, rows: int, columns: int) -> None:
        add(f"{name}.weight", rows, columns)
        add(f"{name}.bias", rows)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(hidden, np.float32), np.zeros(hidden, np.float32)

    tables = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    for name, size in tables.items():
        add(f"embeddings.{name}_embeddings.weight", config[size], hidden)
    norm("embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{at}.attention.{part}", hidden, hidden)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", inner, hidden)
        linear(f"{at}.output.dense", hidden, inner)
        norm(f"{at}.output.LayerNorm")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}
    longest = 512 if config["model_type"] == "bert" else 8192
    save_tokenizer(folder, config["vocab_size"], config["pad_token_id"], longest)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, value in {
        "config.json": config,
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": {"max_seq_length": longest},
    }.items():
        (folder / name).write_text(json.dumps(value, indent=1))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def save_tokenizer(folder: Path, vocabulary: int, pad: int, longest: int) -> None:
    """Of words w5, w6, …, each of which is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    special.insert(pad, "[PAD]")
    ids = {name: i for i, name in enumerate([*special, *(f"w{i}" for i in range(5, vocabulary))])}
    tokenizer = Tokenizer(models.WordLevel(ids, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, ids[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends)
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name[1:-1].lower()}_token": name for name in special}
    said = names | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "special_tokens_map.json").write_text(json.dumps(names))


def export(folder: Path) -> None:
    """The graph in ONNX, with the operations that onnxruntime has for such models, in float32 and in int8."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import AutoModel

    class Rows(torch.nn.Module):
        """The model with its inputs by place, as the exporter wants them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = self.model(**dict(zip(names, inputs, strict=True))).last_hidden_state
            return rows

    rows = Rows()
    model = rows.model
    ids = torch.randint(5, 1000, (2, 16))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.type_vocab_size > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    names = list(inputs)
    heads, hidden = model.config.num_attention_heads, model.config.hidden_size
    with tempfile.TemporaryDirectory(dir=folder) as plain:  # weights of large graphs are files beside them
        torch.onnx.export(
            rows,
            tuple(inputs.values()),
            f"{plain}/model.onnx",
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in [*names, "last_hidden_state"]},
            dynamo=False,
        )
        optimized = optimize_model(f"{plain}/model.onnx", model_type="bert", num_heads=heads, hidden_size=hidden)
    is_large = model.num_parameters() > 4e8
    optimized.save_model_to_file(str(folder / "model.onnx"), use_external_data_format=is_large)
    quantize_dynamic(
        folder / "model.onnx",
        folder / "model.int8.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": 1},  # float, of what the fused operations give
    )


if __name__ == "__main__":
    sys.exit(main())
