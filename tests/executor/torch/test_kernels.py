"""Triton's kernels beside the same ops in plain PyTorch."""

from dataclasses import replace

import pytest
import torch

from harness import TOLERANCE as TOLERANCES
from harness import decoder, error, logits_of, make_torch, random_tensors, random_tokens
from octavo.executor.torch import ops
from octavo.executor.torch.ops import Ragged, Rotation, Scoring
from octavo.graph.ops.pointwise import GLUS
from reference import reference_logits

# Triton's interpreter multiplies bfloat16 matrices by their bits, so those are left to GPUs.
DTYPES = [torch.float32, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}
BLOCK_SIZE = 16


@pytest.fixture
def random(device):
    generator = torch.Generator().manual_seed(0)

    def make(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(device, dtype)

    return make


def assert_same(found, expected, dtype=torch.float32):
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found.float(), expected.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("columns", [1, 40, 576, 5000])
def test_norms(kernels, random, columns, dtype):
    x, y, weight = random(5, columns), random(5, columns, dtype=dtype), random(columns)
    tolerance = torch.float16 if dtype != torch.float32 else dtype
    expected = ops.rms_norm(y, weight, 1e-5, dtype)
    found = kernels.rms_norm(y, weight, 1e-5, dtype)
    torch.testing.assert_close(found, expected, rtol=2 * TOLERANCE[tolerance], atol=2 * TOLERANCE[tolerance])
    (total, normed), (found_total, found) = (m.add_rms_norm(x, y, weight, 1e-5, dtype) for m in (ops, kernels))
    assert_same(found_total, total)
    torch.testing.assert_close(found, normed, rtol=2 * TOLERANCE[tolerance], atol=2 * TOLERANCE[tolerance])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 40, 1025])
@pytest.mark.parametrize("kind", GLUS)
def test_gates_that_are_parts_of_wider_rows(kernels, random, columns, dtype, kind):
    wide = random(3, 2 * columns + 7, dtype=dtype)
    gate, up = wide[:, :columns], wide[:, columns : 2 * columns]
    assert_same(kernels.gated(gate, up, kind), ops.gated(gate, up, kind), dtype)


@pytest.mark.parametrize(("key_dim", "value_dim"), [(16, 32), (24, 40), (128, 128)])
def test_steps_of_delta_rules(kernels, random, device, key_dim, value_dim):
    """Of sequences anywhere in the state, one of which begins."""
    q, k, v = random(3, 2, key_dim), random(3, 2, key_dim) / key_dim**0.5, random(3, 2, value_dim)
    g, beta, states = -random(3, 2).abs(), random(3, 2).sigmoid(), random(5, 2, key_dim, value_dim)
    rows, positions = (torch.tensor(numbers, device=device) for numbers in ([4, 0, 2], [7, 0, 3]))
    mine, theirs = states.clone(), states.clone()
    found = kernels.delta_step(q, k, v, g, beta, mine, rows, positions)
    assert_same(found, ops.delta_step(q, k, v, g, beta, theirs, rows, positions))
    assert_same(mine, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairs", [None, 4, 10])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("value_dim", [20, 12, 40])
def test_rotation_and_the_cache_s_writes(kernels, random, device, value_dim, pairs, interleaved, dtype):
    """20 columns a head, of which 2 * pairs are rotated. Padding, slot -1, is neither stored nor looked at."""
    wide = random(5, (6 + 3) * 20 + 3 * value_dim, dtype=dtype)
    positions = torch.tensor([3, 0, 9, 30, 0], device=device)
    slots = torch.tensor([5, 0, 2 * BLOCK_SIZE + 3, 63, -1], device=device)
    rotation = None if pairs is None else Rotation(random(31, pairs), random(31, pairs), interleaved)
    results = []
    for module in (ops, kernels):
        parts = torch.split(wide.clone(), [120, 60, 3 * value_dim], dim=1)
        q, k, v = (part.view(5, -1, width) for part, width in zip(parts, (20, 20, value_dim), strict=True))
        k_pages, v_pages = (
            torch.full((4, 3, BLOCK_SIZE, width), 7.0, dtype=dtype, device=device) for width in (20, value_dim)
        )
        module.rotate_and_store(q, k, v, rotation, positions, slots, k_pages, v_pages)
        results.append((q[:4], k[:4], k_pages, v_pages))
    for expected, found in zip(*results, strict=True):
        assert_same(found, expected, dtype)


class Cache:
    """Sequences with `starts` tokens in a paged cache and `counts` new ones, in blocks of any order.

    Places that no sequence uses hold NaN.
    """

    def __init__(self, random, device, starts, counts, kv_heads, head_dim, dtype, value_dim=None):
        totals = [start + count for start, count in zip(starts, counts, strict=True)]
        numbers = [-(-total // BLOCK_SIZE) for total in totals]
        blocks = torch.randperm(sum(numbers) + 3, generator=torch.Generator().manual_seed(1)).tolist()
        self.pages = []
        tables = torch.zeros(len(totals), max(numbers) + 1, dtype=torch.int32)
        for i, number in enumerate(numbers):
            tables[i, :number] = torch.tensor([blocks.pop() for _ in range(number)], dtype=torch.int32)
        for width in (head_dim, value_dim or head_dim):
            pages = torch.full((sum(numbers) + 3, kv_heads, BLOCK_SIZE, width), torch.nan)
            for table, total in zip(tables, totals, strict=True):
                values = random(total, kv_heads, width).cpu()
                for place in range(total):
                    pages[table[place // BLOCK_SIZE], :, place % BLOCK_SIZE] = values[place]
            self.pages.append(pages.to(device, dtype))
        rows = [sum(counts[:i]) for i in range(len(counts))]
        starts, counts, rows = (torch.tensor(x, dtype=torch.int32, device=device) for x in (starts, counts, rows))
        self.ragged = Ragged(tables.to(device), starts, counts, rows, int(counts.max()))

    def check(self, kernels, random, heads, splits=None, **scoring):
        """Both implementations on the same queries, which are parts of wider rows."""
        k_pages, v_pages = self.pages
        head_dim, dtype = k_pages.shape[-1], k_pages.dtype
        tokens = int(self.ragged.counts.sum())
        wide = random(tokens + 1, heads * head_dim + 24, dtype=dtype)
        q = wide[:, : heads * head_dim].view(tokens + 1, heads, head_dim)
        shape = (*q.shape[:2], v_pages.shape[-1])
        expected, found = (torch.full(shape, 5.0, dtype=dtype, device=q.device) for _ in range(2))
        per_head = {name: scoring.pop(name, None) for name in ("slopes", "biases", "sinks")}
        host = Scoring(head_dim**-0.5, **scoring, **per_head)
        on_device = {name: None if x is None else x.to(q.device) for name, x in per_head.items()}
        reference = [page.nan_to_num().cpu() for page in self.pages]
        plain = Ragged(*(x.cpu() for x in (self.ragged.block_tables, self.ragged.starts)), self.ragged.counts.cpu(),
                       self.ragged.rows.cpu(), self.ragged.max_count)  # fmt: skip
        on_host = expected.cpu()
        ops.paged_attention(q.cpu(), *reference, plain, host, on_host)
        kernels.paged_attention(q, k_pages, v_pages, self.ragged, replace(host, **on_device), found, splits)
        assert_same(found.cpu(), on_host, dtype)  # and the last row, which is nobody's, is untouched


DECODES = [0, BLOCK_SIZE - 2, BLOCK_SIZE - 1, BLOCK_SIZE, 40, 99]
CHUNKS = {"starts": [0, 13, 31, 64, 3], "counts": [5, 40, 1, 23, 13]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 3, 7, 8])
def test_attention_of_decodes_and_chunks(kernels, random, device, group, head_dim, dtype):
    for starts, counts in ((DECODES, [1] * len(DECODES)), CHUNKS.values()):
        Cache(random, device, starts, counts, 1, head_dim, dtype).check(kernels, random, group)


@pytest.mark.parametrize("head_dim", [2, 8, 22])
def test_attention_of_small_heads(kernels, random, device, head_dim):
    cache = Cache(random, device, **CHUNKS, kv_heads=1, head_dim=head_dim, dtype=torch.float32)
    cache.check(kernels, random, 5, 2)


def test_attention_of_large_groups(kernels, random, device):
    Cache(random, device, [3, 20], [1, 2], 1, 16, torch.float32).check(kernels, random, 64)


@pytest.mark.parametrize("splits", [1, 2, 5])
@pytest.mark.parametrize("window", [None, 1, 17, 64])
@pytest.mark.parametrize("kind", ["decodes", "chunks"])
def test_attention_of_windows_in_any_number_of_splits(kernels, random, device, kind, window, splits):
    starts, counts = (DECODES, [1] * len(DECODES)) if kind == "decodes" else CHUNKS.values()
    cache = Cache(random, device, starts, counts, 2, 16, torch.float32)
    cache.check(kernels, random, 6, splits, window=window)


HEADS = {
    "biases": torch.randn(6, 41, generator=torch.Generator().manual_seed(0)),
    "slopes": torch.tensor([0.5, 0.25, 2.0, 0.0, 1.0, 0.1]),
    "sinks": torch.tensor([0.5, -3.0, 9.0, 0.0, 1.0, 2.0]),
}
SCORINGS = {
    "soft cap": {"softcap": 0.7},
    "slopes": {"slopes": HEADS["slopes"]},
    "slopes of roots": {"slopes": HEADS["slopes"], "by_root": True},
    "biases": {"biases": HEADS["biases"]},
    "biases of the nearest": {"biases": HEADS["biases"][:, :3].contiguous()},
    "sinks": {"sinks": HEADS["sinks"]},
    "chunks": {"chunk": 17},
    "chunks, and those before": {"chunk": 9, "lookback": 2},
    "all": {"softcap": 2.0, "chunk": 20, **HEADS},
    "sinks of a window": {"window": 5, "sinks": HEADS["sinks"]},
}


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("scoring", SCORINGS.values(), ids=SCORINGS)
@pytest.mark.parametrize("kind", ["decodes", "chunks"])
def test_attention_with_scores_of_every_kind(kernels, random, device, kind, scoring, splits):
    starts, counts = (DECODES, [1] * len(DECODES)) if kind == "decodes" else CHUNKS.values()
    cache = Cache(random, device, starts, counts, 2, 16, torch.float32)
    cache.check(kernels, random, 6, splits, **scoring)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "value_dim"), [(24, 16), (16, 40), (192, 128)])
@pytest.mark.parametrize("splits", [1, 3])
def test_attention_of_values_of_another_width(kernels, random, device, splits, head_dim, value_dim, dtype):
    cache = Cache(random, device, **CHUNKS, kv_heads=2, head_dim=head_dim, dtype=dtype, value_dim=value_dim)
    cache.check(kernels, random, 4, splits)


def test_padding_attends_to_nothing(kernels, random, device):
    cache = Cache(random, device, [20, 5], [1, 1], 1, 16, torch.float32)
    q, out = random(3, 2, 16), torch.full((3, 2, 16), 5.0, device=device)
    tables = torch.cat([cache.ragged.block_tables, torch.zeros_like(cache.ragged.block_tables[:1])])
    starts, counts, rows = torch.tensor([[20, 5, 0], [1, 1, 0], [0, 1, 2]], dtype=torch.int32, device=device)
    for splits in (1, 3):
        kernels.paged_attention(q, *cache.pages, Ragged(tables, starts, counts, rows, 1), Scoring(0.25), out, splits)
    assert (out[2] == 5).all()
    assert out[:2].isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def test_a_model_s_logits_are_the_reference_s(kernels, device, dtype):
    if device.type == "cpu" and dtype == "bfloat16":
        pytest.skip("Triton's interpreter can't multiply bfloat16 matrices")
    graph = decoder(heads=6, kv_heads=2, layers=1, window=25, rope="interleaved")
    tensors, tokens = random_tensors(graph, dtype), random_tokens(40)
    executor = make_torch(graph, tensors, dtype, kernels=kernels, device=str(device))
    assert error(logits_of(executor, tokens, [37, 1]), reference_logits(graph, tensors, tokens)) < TOLERANCES[dtype]
