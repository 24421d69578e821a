"""The plan of memory: its arithmetic, what it refuses, and that what it says would fit does fit."""

import re

import pytest

from checkpoints import SIZES, save_checkpoint, save_tokenizer
from octavo import LLM, SamplingParams
from octavo.config import EngineConfig
from octavo.engine import backend, memory
from octavo.errors import ConfigError, MemoryPlanError
from octavo.executor.native.lowering import lower
from octavo.models import load_declaration

MIB = 1 << 20
# Weights of 69 MiB in bfloat16, and 16 KiB of keys and values per token.
CONFIG = {
    **SIZES,
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}


def plan(free, **options):
    model = load_declaration(CONFIG, "config.json", options.get("max_model_len"))
    graph = model.build()
    config = EngineConfig(**options)
    return memory.plan_memory(config, lower(graph), model.max_positions, model.vocab_size, free, 100 * MIB)


def test_with_plenty_of_memory_all_sequences_can_be_as_long_as_the_model_allows():
    full = plan(1 << 40)
    assert full.max_model_len == 8192
    assert full.num_blocks == 64 * 8192 // 32
    assert full.kv_bytes_per_block == (32 * 8 * 2 * 512 * 2,)


@pytest.mark.parametrize("free", [300 * MIB, 500 * MIB, 1000 * MIB])
def test_the_plan_stays_within_what_is_free(free):
    made = plan(free)
    used = made.weights + made.workspace + made.kv_cache
    assert free - sum(made.kv_bytes_per_block) < used <= free
    assert made.max_model_len == min(8192, made.num_blocks * 32)


def test_float32_takes_twice_as_much_for_weights_and_cache():
    half, full = plan(1 << 40), plan(1 << 40, dtype="float32")
    assert sum(full.kv_bytes_per_block) == 2 * sum(half.kv_bytes_per_block)
    assert full.weights == pytest.approx(2 * half.weights, rel=1e-3)


def test_an_int8_cache_takes_half_and_has_room_for_twice_as_much():
    whole, half = plan(1000 * MIB), plan(1000 * MIB, kv_cache_dtype="int8")
    assert half.kv_bytes_per_block == (32 * 8 * 2 * (512 + 8 * 4),)
    assert sum(half.kv_bytes_per_block) < 0.54 * sum(whole.kv_bytes_per_block)
    assert half.num_blocks > 1.85 * whole.num_blocks
    assert plan(1 << 40, dtype="float32", kv_cache_dtype="int8").kv_bytes_per_block == half.kv_bytes_per_block


def test_options_set_the_size_of_the_cache():
    assert plan(1 << 40, num_gpu_blocks_override=7).num_blocks == 7
    assert plan(1 << 40, num_gpu_blocks_override=7).max_model_len == 7 * 32
    assert plan(1 << 40, max_model_len=64, max_num_seqs=3).num_blocks == 3 * 2
    assert plan(1 << 40, max_model_len=4096, enable_chunked_prefill=False).max_num_batched_tokens == 4096


def test_a_refusal_has_the_arithmetic_and_an_option_that_would_do():
    free = 300 * MIB
    with pytest.raises(MemoryPlanError) as caught:
        plan(free, max_model_len=8192)
    message = str(caught.value)
    weights, workspace, cache, total, usable = map(int, re.findall(r"(\d+) MiB", message))
    assert (cache, usable) == (128, 300)
    assert total == pytest.approx(weights + workspace + cache, abs=2)
    fits = int(re.search(r"max_model_len=(\d+) would fit", message)[1])
    assert plan(free, max_model_len=fits).max_model_len == fits
    with pytest.raises(MemoryPlanError):
        plan(free, max_model_len=fits + 32)


def test_a_model_that_is_too_large_says_how_much_is_missing():
    with pytest.raises(MemoryPlanError, match=r"a smaller model, or .* MiB more free memory would do") as caught:
        plan(60 * MIB)
    missing = int(re.search(r"(\d+) MiB more", str(caught.value))[1])
    assert plan((60 + missing + 1) * MIB).num_blocks >= 2048 // 32


def test_llm_refuses_before_anything_is_loaded(tiny, monkeypatch):
    monkeypatch.setattr(backend, "free_memory", lambda: 20 * MIB)
    monkeypatch.setattr("octavo.executor.native.executor.NativeExecutor", None)
    with pytest.raises(MemoryPlanError, match=r"does not fit: weights .* but 18 MiB may be used"):
        LLM(str(tiny[0]))


@pytest.mark.parametrize("cache", ["auto", "int8"])
@pytest.mark.parametrize("head_dim", [8, 24, 64])
def test_the_executor_takes_what_the_plan_says(head_dim, cache, tmp_path, inaugural_text):
    save_checkpoint(tmp_path, vocab_size=500, head_dim=head_dim)
    save_tokenizer(tmp_path, inaugural_text)
    model = LLM(str(tmp_path), max_num_seqs=4, kv_cache_dtype=cache).model
    native = model.executor.native
    assert native.kv_bytes == model.plan.kv_cache
    assert native.workspace_bytes <= model.plan.workspace


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A control group of the test's own; returns a function that writes its files."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(str(text))

    entry = (str(tmp_path), "memory.max", "memory.current", "inactive_file")
    monkeypatch.setattr(memory, "_cgroup_files", lambda: [entry])
    return write


def test_a_container_s_limit_counts_and_its_page_cache_is_free(cgroup):
    machine = memory.free_memory()
    cgroup(memory__max=100 * MIB, memory__current=70 * MIB, memory__stat=f"anon 1\ninactive_file {30 * MIB}\n")
    assert memory.free_memory() == 60 * MIB
    for limit in ("max", 1 << 62):
        cgroup(memory__max=limit)
        assert memory.free_memory() == pytest.approx(machine, rel=0.2)


def test_a_control_group_that_can_t_be_read_is_no_limit(cgroup):
    cgroup(memory__max=100 * MIB, memory__current="?", memory__stat="")
    assert memory.free_memory() > 100 * MIB


def test_a_cache_may_be_sized_in_bytes():
    (block,) = plan(1 << 40).kv_bytes_per_block
    assert plan(1 << 40, kv_cache_memory_bytes=9 * block + 1).num_blocks == 9
    assert plan(1 << 40, kv_cache_memory_bytes=9 * block, num_gpu_blocks_override=7).num_blocks == 7
    with pytest.raises(ConfigError, match=f"kv_cache_memory_bytes=1000: a block of 32 tokens takes {block} bytes"):
        plan(1 << 40, kv_cache_memory_bytes=1000)


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_a_model_with_a_window_needs_no_blocks_for_what_the_window_has_passed(executor, tmp_path, inaugural_text):
    """300 tokens, of which 16 are seen, in 6 blocks of 16, are those that 30 blocks give."""
    save_checkpoint(tmp_path, "mistral", vocab_size=500, sliding_window=16, max_position_embeddings=320)
    save_tokenizer(tmp_path, inaugural_text)
    options = {"dtype": "float32", "executor": executor, "block_size": 16, "max_num_batched_tokens": 32}
    prompt, params = (
        {"prompt_token_ids": [3 + i % 7 for i in range(100)]},
        SamplingParams(temperature=0, max_tokens=200, ignore_eos=True),
    )
    texts = []
    for num_blocks in (6, 30):
        llm = LLM(str(tmp_path), max_num_seqs=2, num_gpu_blocks_override=num_blocks, **options)
        assert llm.model.max_model_len == 320
        outputs = llm.generate([prompt, prompt], params, use_tqdm=False)
        assert [len(output.outputs[0].token_ids) for output in outputs] == [200, 200]
        texts.append([output.outputs[0].token_ids for output in outputs])
        assert llm.engine.scheduler.blocks.pools[0].num_free == num_blocks
    assert texts[0] == texts[1]
