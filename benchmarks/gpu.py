"""The torch executor on a GPU: first whether it is right, then how fast it is. Needs no network.

    python benchmarks/gpu.py [--models 1b 8b] [--output FILE.md] [--directory DIR] [--without-transformers]

Models are random checkpoints with the shapes of Llama 3.2 1B and Llama 3.1 8B, written to DIR once. Every figure of the
table is of the same run. The script itself can be tried on any machine:

    python benchmarks/gpu.py --device cpu --models tiny --batches 1 4 --context 64 --prompt 64
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from octavo import LLM, SamplingParams
from octavo.cli.speed import measure_limits, model_cost
from octavo.request import Prompt

SHAPES = {
    "tiny": {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "inner": 128, "vocab": 512, "tied": True},
    "1b": {"hidden": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "inner": 8192, "vocab": 128256, "tied": True},
    "8b": {"hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "inner": 14336, "vocab": 128256, "tied": False},
}
RIVAL_BATCH = 64  # requests at once, beside transformers
STEPS = 64  # decode steps that are measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["1b", "8b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256], metavar="N", help="decoding at once")
    parser.add_argument("--context", type=int, default=1024, metavar="N", help="tokens of a decoding request")
    parser.add_argument("--prompt", type=int, default=2048, metavar="N", help="tokens of a prompt that is timed")
    parser.add_argument("--output", type=Path, help="where the table goes, besides stdout")
    parser.add_argument("--directory", type=Path, default=Path("/tmp/octavo-gpu"), help="of the checkpoints")
    parser.add_argument("--without-transformers", action="store_true")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    lines = [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} on {_machine(args.device)}, with PyTorch {torch.__version__}.",
        "",
    ]
    lines += list(check(args.directory, args.device))
    for name in args.models:
        lines += ["", f"### {name}: bf16, random weights", ""]
        lines += list(measure(write_checkpoint(args.directory / name, **SHAPES[name]), args))
    report = "\n".join(lines)
    print(report)
    if args.output:
        args.output.write_text(report + "\n", encoding="utf-8")
    return 0


def _machine(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "a CPU"


def write_checkpoint(
    path: Path, hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int, tied: bool
) -> Path:
    """A random Llama of these sizes, a file per layer, with a tokenizer of single bytes; kept if it is there."""
    if (path / "done").exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    head_dim = hidden // heads
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "vocab_size": vocab,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "intermediate_size": inner, "head_dim": head_dim, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "hidden_act": "silu",
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, device=device) * columns**-0.5).to(torch.bfloat16).cpu()

    ones = torch.ones(hidden, dtype=torch.bfloat16)
    parts = {"model.embed_tokens.weight": matrix(vocab, hidden), "model.norm.weight": ones.clone()}
    if not tied:
        parts["lm_head.weight"] = matrix(vocab, hidden)
    index = _save(path / "ends.safetensors", parts)
    for i in range(layers):
        at = f"model.layers.{i}"
        index |= _save(
            path / f"layer-{i:02}.safetensors",
            {
                f"{at}.input_layernorm.weight": ones.clone(),
                f"{at}.post_attention_layernorm.weight": ones.clone(),
                f"{at}.self_attn.q_proj.weight": matrix(heads * head_dim, hidden),
                f"{at}.self_attn.k_proj.weight": matrix(kv_heads * head_dim, hidden),
                f"{at}.self_attn.v_proj.weight": matrix(kv_heads * head_dim, hidden),
                f"{at}.self_attn.o_proj.weight": matrix(hidden, heads * head_dim),
                f"{at}.mlp.gate_proj.weight": matrix(inner, hidden),
                f"{at}.mlp.up_proj.weight": matrix(inner, hidden),
                f"{at}.mlp.down_proj.weight": matrix(hidden, inner),
            },
        )
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "done").touch()
    return path


def _save(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    save_file(tensors, file)
    return dict.fromkeys(tensors, file.name)


def check(directory: Path, device: str) -> Iterator[str]:
    """A small model on the device beside the native executor: prompt log-probabilities, and greedy tokens."""
    path = str(write_checkpoint(directory / "tiny", **SHAPES["tiny"]))
    prompts = [Prompt(None, _random_tokens(length, 512, length)) for length in (1, 31, 32, 33, 200, 700)]
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, prompt_logprobs=0)

    def results(**options: object) -> tuple[list[list[int]], np.ndarray]:
        llm = LLM(path, max_model_len=1024, dtype="float32", **options)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        logprobs = [entry.logprob for o in outputs for p in o.prompt_logprobs or [] if p for entry in p.values()]
        return [output.outputs[0].token_ids for output in outputs], np.array(logprobs)

    tokens, logprobs = results(device="cpu", executor="native")
    for eager in (False, True):
        found, others = results(device=device, executor="torch", enforce_eager=eager)
        worst = float(np.abs(others - logprobs).max())
        same = sum(a == b for one, two in zip(tokens, found, strict=True) for a, b in zip(one, two, strict=True))
        yield f"- float32 against the native executor{', eager' * eager}: log-probabilities differ by {worst:.1e}"
        yield f"  at most, {same} of {sum(map(len, tokens))} greedy tokens are the same"
        if worst > 1e-3:
            raise SystemExit(f"gpu: wrong results: log-probabilities differ by {worst:.1e} from the native executor's")


def measure(path: Path, args: argparse.Namespace) -> Iterator[str]:
    """The lines of one model's table."""
    begin = time.monotonic()
    longest, most = max(args.prompt, args.context) + 2 * STEPS, max(RIVAL_BATCH, *args.batches)
    sizes = {"max_model_len": longest, "max_num_seqs": most, "enable_prefix_caching": False}
    llm = LLM(str(path), device=args.device, executor="torch", dtype="bfloat16", **sizes)
    ready = time.monotonic() - begin
    limits = measure_limits(llm.model.config)
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in llm.model.executor.load_seconds.items())
    bandwidth, flops = limits["bytes_per_second"], limits["flops_per_second"]
    yield f"limits: memory {bandwidth / 1e12:.2f} TB/s, matmul {flops / 1e12:.0f} TFLOP/s"
    yield ""
    yield f"ready after {ready:.1f} s ({parts})"
    yield ""
    yield "| what | measured | share of the limit |"
    yield "|---|---|---|"
    for batch in args.batches:
        seconds = decode_step_seconds(llm, batch, args.context)
        share = model_cost(llm.model, [(1, args.context)] * batch, batch).read_bytes / seconds / bandwidth
        yield f"| TPOT, {batch} requests of {args.context} tokens | {1000 * seconds:.2f} ms | {share:.0%} of memory |"
    seconds = prefill_seconds(llm, number := 8, args.prompt)
    share = model_cost(llm.model, [(args.prompt, args.prompt)] * number, number).flops / seconds / flops
    rate = f"{number * args.prompt / seconds:,.0f} tok/s"
    yield f"| prefill, prompts of {args.prompt} tokens | {rate} | {share:.0%} of matmul |"
    ours = generate_rate(llm, args.context)
    yield f"| {RIVAL_BATCH} requests at once, {args.context} in, {STEPS} out | {ours:,.0f} tok/s of output | |"
    del llm
    gc.collect()
    if not args.without_transformers:
        theirs = transformers_rate(path, args.device, args.context)
        yield f"| the same by transformers' generate | {theirs:,.0f} tok/s | Octavo is {ours / theirs:.1f}x as fast |"


def decode_step_seconds(llm: LLM, batch: int, context: int) -> float:
    """Of one decode step, while `batch` requests with about `context` tokens run."""
    params = SamplingParams(temperature=0, max_tokens=2 * STEPS, ignore_eos=True)
    names = [f"decode-{i}" for i in range(batch)]
    for i, name in enumerate(names):
        llm.engine.submit(name, Prompt(None, _random_tokens(context - STEPS // 2, llm.model.vocab_size, i)), params)
    while not all(llm.engine.jobs[name].has_tokens for name in names):
        llm.engine.step()
    for _ in range(4):
        llm.engine.step()
    begin = time.monotonic()
    for _ in range(STEPS):
        llm.engine.step()
    seconds = (time.monotonic() - begin) / STEPS
    for name in names:
        llm.engine.abort(name)
    return seconds


def prefill_seconds(llm: LLM, number: int, length: int) -> float:
    """Of `number` prompts, from their arrival to the last one's first token; the best of three."""
    params = SamplingParams(temperature=0, max_tokens=1)
    times = []
    for attempt in range(3):
        prompts = [Prompt(None, _random_tokens(length, llm.model.vocab_size, 10 * attempt + i)) for i in range(number)]
        begin = time.monotonic()
        llm.generate(prompts, params, use_tqdm=False)
        times.append(time.monotonic() - begin)
    return min(times)


def generate_rate(llm: LLM, context: int) -> float:
    """Output tokens per second of RIVAL_BATCH requests, from their arrival to the last one's end."""
    prompts = [Prompt(None, _random_tokens(context, llm.model.vocab_size, i)) for i in range(RIVAL_BATCH)]
    params = SamplingParams(temperature=0, max_tokens=STEPS, ignore_eos=True)
    begin = time.monotonic()
    llm.generate(prompts, params, use_tqdm=False)
    return RIVAL_BATCH * STEPS / (time.monotonic() - begin)


def transformers_rate(path: Path, device: str, context: int) -> float:
    """What `generate_rate` measures, of transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).to(device).eval()
    vocab = model.config.vocab_size
    prompts = torch.tensor([_random_tokens(context, vocab, i) for i in range(RIVAL_BATCH)], device=device)

    mask = torch.ones_like(prompts)

    def run(steps: int) -> None:
        lengths = {"max_new_tokens": steps, "min_new_tokens": steps}
        model.generate(prompts, attention_mask=mask, do_sample=False, pad_token_id=0, **lengths)
        if device == "cuda":
            torch.cuda.synchronize()

    run(2)
    begin = time.monotonic()
    run(STEPS)
    return RIVAL_BATCH * STEPS / (time.monotonic() - begin)


def _random_tokens(count: int, vocab: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


if __name__ == "__main__":
    sys.exit(main())
