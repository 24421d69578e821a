"""Small graphs, random weights, and a native executor that is driven without an engine."""

import numpy as np

from octavo import _native
from octavo.engine.steps import make_step
from octavo.executor.base import Sizes
from octavo.executor.native.executor import NativeExecutor
from octavo.graph.builder import Graph
from octavo.graph.cache import BlockGroup, by_window
from octavo.graph.ops.rope import RopeTable
from octavo.request import BlockTable, Chunk, Prompt, Request, Sequence, StepPlan
from octavo.sampling_params import SamplingParams
from octavo.weights.tensor import StoredTensor

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}  # of logits, relative to the largest
FORMAT = {"float32": "F32", "bfloat16": "BF16"}


def plain_rope(head_dim, theta=10000.0, **options):
    exponents = np.arange(0, head_dim, 2) / head_dim
    return RopeTable(tuple((theta**-exponents).tolist()), **options)


def decoder(
    hidden=40,
    heads=4,
    kv_heads=2,
    head_dim=8,
    vocab=131,
    inner=56,
    layers=2,
    window=None,
    bias=False,
    rope="half",
    sinks=False,
    **attention,
):
    """A graph of the Llama kind; `rope` is half, interleaved, partial, or None; `attention` is what else that has."""
    g = Graph()
    tables = {
        "half": plain_rope(head_dim),
        "interleaved": plain_rope(head_dim, interleaved=True),
        "partial": plain_rope(head_dim // 4 * 2, scale=1.25),
    }
    x = g.embed("embed", vocab, hidden)
    for i in range(layers):
        h = g.rms_norm(x, f"{i}.norm1", 1e-5)
        q = g.linear(h, f"{i}.q", heads * head_dim, bias)
        k = g.linear(h, f"{i}.k", kv_heads * head_dim, False)
        v = g.linear(h, f"{i}.v", kv_heads * attention.get("value_dim", head_dim), bias)
        if rope:
            q, k = g.rope(q, head_dim, tables[rope]), g.rope(k, head_dim, tables[rope])
        how = attention | {"sinks": f"{i}.sinks" if sinks else None}
        h = g.attention(q, k, v, layer=i, head_dim=head_dim, scale=head_dim**-0.5, window=window, **how)
        x = g.add(x, g.linear(h, f"{i}.o", hidden, bias))
        h = g.rms_norm(x, f"{i}.norm2", 1e-5)
        h = g.glu(g.linear(h, f"{i}.gate", inner, bias), g.linear(h, f"{i}.up", inner, False))
        x = g.add(x, g.linear(h, f"{i}.down", hidden, bias))
    g.logits(g.rms_norm(x, "norm", 1e-5), "head", vocab)
    return g


def stored(name, values, format="F32"):
    """`values` as a checkpoint would hold them, in F32 or BF16 (truncated)."""
    bits = np.ascontiguousarray(values, np.float32)
    if format == "BF16":
        bits = (bits.view(np.uint32) >> 16).astype(np.uint16)
    return StoredTensor(name, format, np.shape(values), bits.view(np.uint8).reshape(-1))


def random_tensors(graph, dtype="float32", seed=0):
    """Random values for all weights, of the size that keeps activations near one."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for weight in graph.weights:
        values = rng.standard_normal(weight.shape)
        if len(weight.shape) < 2:
            values = 0.2 * values + ("norm" in weight.name)
        elif weight.name != "embed.weight":
            values = values / np.sqrt(weight.shape[1])
        tensors[weight.name] = stored(weight.name, values, FORMAT[dtype])
    return tensors


def make_native(
    graph,
    tensors,
    dtype="float32",
    block_size=16,
    num_blocks=64,
    max_tokens=256,
    source_positions=0,
    **options,
):
    sizes = _sizes(graph, block_size, num_blocks, max_tokens, source_positions)
    return NativeExecutor(graph, tensors, sizes, dtype=dtype, **options)


def make_torch(
    graph,
    tensors,
    dtype="float32",
    block_size=16,
    num_blocks=64,
    max_tokens=256,
    source_positions=0,
    fuse=True,
    **options,
):
    """Torch executors always fuse."""
    from octavo.executor.torch.executor import TorchExecutor

    sizes = _sizes(graph, block_size, num_blocks, max_tokens, source_positions)
    return TorchExecutor(graph, tensors, sizes, dtype=dtype, **options)


def make_executor_for(name):
    """native, native unfused, or torch."""
    from functools import partial

    return make_torch if name == "torch" else partial(make_native, fuse=name == "native")


def _sizes(graph, block_size, num_blocks, max_tokens, source_positions):
    return Sizes(
        vocab_size=graph.nodes[-1].columns if graph.output == "logits" else graph.nodes[0].weight.shape[0],
        num_blocks=num_blocks,
        block_size=block_size,
        max_num_batched_tokens=max_tokens,
        max_num_seqs=40,
        max_logit_rows=max_tokens,
        max_model_len=num_blocks * block_size,
        source_positions=source_positions,
        num_snapshots=4,
        windows=tuple(by_window(graph.layers.values())),
    )


ONE_GROUP = (BlockGroup(0, 0),)


class Line:
    """A sequence with its blocks, all of whose logits are wanted."""

    def __init__(self, tokens, blocks, start=0, groups=ONE_GROUP, second_start=0):
        """`blocks` are counted from the first of each group of layers; a second text begins at `second_start`."""
        params = SamplingParams(prompt_logprobs=0)
        self.request = Request("line", Prompt(None, tokens, second_start=second_start), params, needs_all_rows=True)
        tables = [BlockTable([group.first + block for block in blocks]) for group in groups]
        self.sequence = Sequence(0, list(tokens), len(tokens), tables, num_computed=start, id=blocks[0])

    def chunk(self, count):
        """The next `count` tokens."""
        start = self.sequence.num_computed
        self.sequence.num_computed += count
        return Chunk(self.request, self.sequence, start, count)


def run(executor, chunks, **options):
    """Logits of a step, or hidden states: one array for each chunk."""
    plan = StepPlan(chunks, **options)
    wanted, ranges = plan.logit_rows()
    result = executor.run(make_step(plan, wanted, output=executor.output))
    found = result.logits if executor.output == "logits" else result.hidden_states
    return [found[rows.start : rows.stop].copy() for rows in ranges]


def logits_of(executor, tokens, chunks=(), blocks=None):
    """Logits after every token, computed in chunks of the given sizes, the last of them again and again."""
    sizes = executor.sizes
    line = Line(tokens, range(sizes.num_blocks) if blocks is None else blocks, groups=sizes.groups)
    chunks, done, parts = list(chunks) or [len(tokens)], 0, []
    while done < len(tokens):
        size = min(chunks.pop(0) if len(chunks) > 1 else chunks[0], len(tokens) - done)
        parts += run(executor, [line.chunk(size)])
        done += size
    return np.concatenate(parts)


def random_tokens(count, vocab=131, seed=0):
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def error(found, expected):
    """The largest difference, relative to the largest expected value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def spoil(executor, monkeypatch, value, when=lambda num_tokens: True):
    """Makes the executor give `value` among the logits after as many tokens of a sequence as `when` picks."""
    run, rows = executor.run, []

    def spoil_rows(logits):
        logits[rows, 77] = value
        return logits

    def run_native(step):
        result = run(step)
        result.logits = spoil_rows(result.logits.copy())
        result.sampled = _native.sample(result.logits, [draw.row for draw in result.draws], result.samplers)
        return result

    def spoiled(step):
        ends = np.cumsum(step.counts) - 1
        last = [at for at, end in zip(ends, step.starts + step.counts, strict=True) if when(end)]
        rows[:] = np.flatnonzero(np.isin(step.wanted.logits, last))
        return run(step) if executor.runs_ahead else run_native(step)

    if executor.runs_ahead:  # it draws before it returns
        compute = executor.interpreter.logits
        monkeypatch.setattr(executor.interpreter, "logits", lambda hidden: spoil_rows(compute(hidden)))
    monkeypatch.setattr(executor, "run", spoiled)
