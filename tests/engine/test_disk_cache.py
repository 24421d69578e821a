"""The prefix cache on disk through the whole engine: what comes back is what was computed, or nothing does."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import wait
from dataclasses import replace

import numpy as np
import pytest

from octavo.engine import disk_cache
from octavo.engine.loading import load
from octavo.errors import ConfigError
from octavo.prefix_store import store as store_module
from octavo.prefix_store.folder import VERSION, Folder
from octavo.readers import READERS
from octavo.request import CacheScope, Prompt, Sequence
from octavo.sampling_params import SamplingParams

from .runs import GREEDY, MODELS, TOKENS, Run, assert_same, load_small, save_small

SHORT = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=2)
STATES = ["Qwen3_5Text", "Lfm2"]


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory):
    return save_small(tmp_path_factory.mktemp(request.param), request.param)[0]


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("windowed"), "Qwen2")[0]


class Restarted(Run):
    """Requests on an engine of their own, whose memory is empty; what they leave is on disk when they are over."""

    def __init__(self, model, prompts, params=GREEDY, **options):
        super().__init__(model, prompts, params, **options)
        self.keep(model)

    def keep(self, model):
        self.engine.settle()
        assert model.prefix_store.flush()

    @property
    def cached(self):
        return [request.num_cached_tokens for request in self.requests]


def files_of(folder):
    return sorted(path for kind in ("kv", "state") for path in (folder / VERSION).rglob(f"*.{kind}"))


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_what_was_computed_comes_back_after_a_restart(checkpoint, executor, tmp_path):
    plain = load_small(checkpoint, executor)
    prompt = TOKENS[:70]
    first = Restarted(load_small(checkpoint, executor, prefix_cache_dir=str(tmp_path)), [prompt])
    assert first.cached == [0]
    talk = [*prompt, *first[0][0][0], *TOKENS[80:90]]
    model = load_small(checkpoint, executor, prefix_cache_dir=str(tmp_path))
    has_states = model.executor.memory.state_bytes > 0
    for asked, cached in ((prompt, 64), ([*prompt, 5, 6], 64), (talk, 64 if has_states else 96), ([7, *prompt], 0)):
        again = Restarted(model, [asked])
        assert again.cached == [cached]
        assert_same(model, again[0], Run(plain, [asked])[0])
    stats = model.prefix_store.stats
    assert stats.hit_tokens == (192 if has_states else 224)
    assert (stats.damaged_files, stats.errors, stats.dropped_blocks) == (0, 0, 0)


def test_what_a_process_computed_last_is_written_before_it_ends(windowed, tmp_path):
    """And another process computes the same."""
    script = (
        "import sys\nfrom octavo import LLM, SamplingParams\n"
        "sizes = dict(dtype='float32', max_num_seqs=6, block_size=16, max_num_batched_tokens=64, max_model_len=160)\n"
        "llm = LLM(sys.argv[1], prefix_cache_dir=sys.argv[2], **sizes)\n"
        "params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)\n"
        f"output = llm.generate({{'prompt_token_ids': {TOKENS[:70]}}}, params, use_tqdm=False)[0]\n"
        "print([output.num_cached_tokens, list(output.outputs[0].token_ids)])"
    )
    command = [sys.executable, "-c", script, str(windowed), str(tmp_path)]
    first, again = (subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2))
    tokens = Run(load_small(windowed, "native"), [TOKENS[:70]])[0][0][0]
    assert first == f"{[0, tokens]}\n"
    assert again == f"{[64, tokens]}\n"


def test_a_batch_finds_what_is_there_and_computes_what_is_not(checkpoint, tmp_path):
    plain = load_small(checkpoint, "native")
    model = load_small(checkpoint, "native", prefix_cache_dir=str(tmp_path))
    Restarted(model, [TOKENS[:70], TOKENS[100:140]])
    prompts = [TOKENS[:70], TOKENS[:60], TOKENS[100:150], TOKENS[3:40], TOKENS[:5], TOKENS[:70]]
    for options in ({}, {"plan": {"max_num_batched_tokens": 7}, "max_num_seqs": 3}):
        again = Restarted(model, prompts, **options)
        assert again.cached[0] == 64
        for number, prompt in enumerate(prompts):
            assert_same(model, again[number], Run(plain, [prompt])[0])


def test_what_is_preempted_and_forked_goes_on_as_if_nothing_had_been(windowed, tmp_path):
    params = SamplingParams(n=3, temperature=1.0, seed=3, max_tokens=24, ignore_eos=True, logprobs=2)
    prompts = [TOKENS[i : i + 40] for i in range(5)]
    plain = load_small(windowed, "native")
    sizes = {"num_gpu_blocks_override": 12, "max_model_len": 100}
    small = load_small(windowed, "native", prefix_cache_dir=str(tmp_path), **sizes)
    expected = [Run(plain, [prompt], params)[0] for prompt in prompts]
    for _ in range(2):
        pressed = Restarted(small, prompts, params)
        assert sum(request.num_preemptions for request in pressed.requests) > 0
        assert [pressed[i] for i in range(5)] == expected
    assert small.prefix_store.stats.hit_tokens > 0


@pytest.mark.parametrize("kind", ["Qwen2", "Lfm2"])
def test_a_thousand_flipped_bits_give_no_wrong_token(kind, tmp_path):
    path = save_small(tmp_path / kind, kind)[0]
    model = load_small(path, "native", prefix_cache_dir=str(tmp_path / "kept"))
    expected = Restarted(model, [TOKENS[:70]], SHORT)[0]
    assert len(files_of(tmp_path / "kept")) >= 4
    random, flipped = np.random.default_rng(0), 0
    while flipped < 1000:
        files, every = files_of(tmp_path / "kept"), flipped < 500
        for file in files if every else random.permutation(files)[:1]:
            contents = np.frombuffer(file.read_bytes(), np.uint8).copy()
            contents[random.integers(len(contents))] ^= 1 << random.integers(8)
            file.write_bytes(contents.tobytes())
            flipped += 1
        again = Restarted(model, [TOKENS[:70]], SHORT)
        assert again[0] == expected
        assert again.cached == [0] or not every
    assert model.prefix_store.stats.damaged_files > 100
    # One that is found to be damaged only after it was computed again is lost once more.
    cached = [Restarted(model, [TOKENS[:70]], SHORT).cached for _ in range(3)]
    assert cached[-1] == [64]


def test_a_file_that_is_damaged_halfway_ends_what_is_found(windowed, tmp_path):
    model = load_small(windowed, "native", prefix_cache_dir=str(tmp_path))
    first = Restarted(model, [TOKENS[:70]])
    third = first.engine.scheduler.blocks.digest(Sequence(0, TOKENS[:70], 70), 2, CacheScope())
    model.prefix_store.folder.place(third, "kv").write_bytes(bytes(files_of(tmp_path)[0].stat().st_size))
    again = Restarted(model, [TOKENS[:70]])
    assert_same(model, again[0], first[0])
    assert again.cached == [0]  # the layers with a window lack what they would look at before it


@pytest.mark.parametrize(
    "options",
    [{"dtype": "bfloat16"}, {"kv_cache_dtype": "int8"}, {"block_size": 32}, {"hf_overrides": {"rope_theta": 77.0}}],
    ids=lambda options: next(iter(options)),
)
def test_what_was_computed_otherwise_is_not_found(windowed, tmp_path, options):
    Restarted(load_small(windowed, "native", prefix_cache_dir=str(tmp_path)), [TOKENS[:70]])
    config = {"dtype": "float32", "prefix_cache_dir": str(tmp_path), **options}
    other = load_otherwise(windowed, **config)
    first = Restarted(other, [TOKENS[:70]])
    assert first.cached == [0]
    assert other.prefix_store.stats.damaged_files == 0  # the keys are others
    run = Restarted(load_otherwise(windowed, **config), [TOKENS[:70]])
    assert run.cached == [64]
    assert_same(other, run[0], first[0])


def load_otherwise(path, **options):
    base = load_small(path, "native").config
    return load(replace(base, **options), READERS)


def test_another_instruction_set_has_other_keys(windowed, tmp_path, monkeypatch):
    Restarted(load_small(windowed, "native", prefix_cache_dir=str(tmp_path)), [TOKENS[:70]])
    monkeypatch.setattr("octavo.prefix_store.identity._native.isa", lambda: "another")
    assert Restarted(load_small(windowed, "native", prefix_cache_dir=str(tmp_path)), [TOKENS[:70]]).cached == [0]


def test_a_model_is_known_by_its_contents_not_by_its_name(windowed, tmp_path):
    """A copy elsewhere is the same model; one with other weights at the same place, of the same size, is not."""
    kept = str(tmp_path / "kept")
    Restarted(load_small(windowed, "native", prefix_cache_dir=kept), [TOKENS[:70]])
    copy = tmp_path / "copy"
    shutil.copytree(windowed, copy)
    assert Restarted(load_small(copy, "native", prefix_cache_dir=kept), [TOKENS[:70]]).cached == [64]
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-2] ^= 1  # of the last tensor's last value
    weights.write_bytes(changed)
    assert Restarted(load_small(copy, "native", prefix_cache_dir=kept), [TOKENS[:70]]).cached == [0]


def test_requests_of_another_salt_find_nothing(windowed, tmp_path):
    model = load_small(windowed, "native", prefix_cache_dir=str(tmp_path))

    def ask(salt):
        run = Restarted(model, [])
        run.engine.submit("0", Prompt(None, TOKENS[:70], cache_salt=salt), GREEDY)
        request = run.engine.jobs["0"].request
        run.drain()
        run.keep(model)
        return request.num_cached_tokens

    assert [ask("one"), ask("two"), ask("one"), ask(""), ask("two")] == [0, 0, 64, 0, 64]


def test_aborted_while_it_is_fetched_it_holds_nothing(windowed, tmp_path):
    model = load_small(windowed, "native", prefix_cache_dir=str(tmp_path))
    Restarted(model, [TOKENS[:70]])
    run = Run(model, [])
    run.submit(0, TOKENS[:70])
    run.engine.step()
    run.engine.abort("0")
    run.drain()
    assert run.engine.scheduler.block_usage == 0
    again = run.submit(1, TOKENS[:70])
    run.drain()
    assert again.num_cached_tokens == 64


def test_a_volume_that_hangs_is_given_up(windowed, tmp_path, monkeypatch):
    """A request waits for it once, others not at all until it answers."""
    expected = Restarted(load_small(windowed, "native", prefix_cache_dir=str(tmp_path)), [TOKENS[:70]])[0]
    model = load_small(windowed, "native", prefix_cache_dir=str(tmp_path))
    answers, reads, read = threading.Event(), [], Folder.read

    def hung(*args):
        reads.append(args)
        answers.wait()
        return read(*args)

    monkeypatch.setattr(Folder, "read", hung)
    monkeypatch.setattr(disk_cache, "GIVE_UP", 0.02)
    run = Run(model, [TOKENS[:70], TOKENS[:70]])
    assert [run[0], run[1]] == [expected, expected]
    num_reads = len(reads)
    assert run.requests[0].num_cached_tokens == 0
    run.submit(2, [9, *TOKENS[:50]])
    run.drain()
    assert len(reads) == num_reads
    late = run.engine.disk._late
    answers.set()
    wait(late)
    monkeypatch.setattr(disk_cache, "GIVE_UP", 60.0)
    fresh = Restarted(model, [TOKENS[:70]])
    assert fresh.cached == [64]
    assert fresh[0] == expected


def test_a_full_disk_is_told_once_and_serving_goes_on(windowed, tmp_path, monkeypatch, caplog):
    model = load_small(windowed, "native", prefix_cache_dir=str(tmp_path))
    expected = Run(load_small(windowed, "native"), [TOKENS[:70]])[0]

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "_write", full)
    monkeypatch.setattr(store_module, "PAUSE", 1e6)
    for _ in range(2):
        assert Restarted(model, [TOKENS[:70]])[0] == expected
    stats = model.prefix_store.stats
    assert (stats.errors, stats.written_blocks) == (1, 0)
    assert stats.dropped_blocks > 5
    said = [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"the prefix cache can't be written to {tmp_path} (No space left on device): ")


def test_what_waits_to_be_written_is_bounded(windowed, tmp_path, monkeypatch):
    """Blocks wait in the cache, where those that are overwritten are lost; nothing else changes."""
    monkeypatch.setattr(store_module, "QUEUED_BYTES", 1)
    model = load_small(windowed, "native", prefix_cache_dir=str(tmp_path))
    prompts = [TOKENS[i : i + 70] for i in range(12)]
    run = Restarted(model, prompts)
    plain = load_small(windowed, "native")
    assert [run[i] for i in range(12)] == [Run(plain, [prompt])[0] for prompt in prompts]
    stats = model.prefix_store.stats
    assert stats.written_blocks > 0
    assert stats.written_blocks == len(files_of(tmp_path))


def test_the_folder_may_go_while_it_runs(windowed, tmp_path):
    kept = tmp_path / "kept"
    model = load_small(windowed, "native", prefix_cache_dir=str(kept))
    expected = Restarted(model, [TOKENS[:70]])[0]
    shutil.rmtree(kept)
    again = Restarted(model, [TOKENS[:70]])
    assert again[0] == expected
    assert again.cached == [0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prefix_cache_size": "20GiB"}, "prefix_cache_size='20GiB': is of the cache on disk; give prefix_cache_dir"),
        ({"prefix_cache_dir": ""}, "prefix_cache_dir='': must be a folder's path"),
        ({"prefix_cache_dir": "x", "enable_prefix_caching": False}, "there is nothing to keep"),
        ({"prefix_cache_dir": "x", "prefix_cache_size": "many"}, "must be a number of bytes, or a size such as 20GiB"),
        ({"prefix_cache_dir": "x", "prefix_cache_size": 0}, "must be above 0"),
        ({"prefix_cache_dir": "/dev/null/x"}, "can't be written"),
        ({"prefix_cache_dir": "{tmp}", "prefix_cache_size": "1K"}, "a block of 16 tokens takes"),
    ],
)
def test_bad_options_are_refused_by_name(windowed, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    options = {name: value.format(tmp=tmp_path) if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(ConfigError, match=r"^prefix_cache_(dir|size)=") as raised:
        load_small(windowed, "native", **options)
    assert says in str(raised.value)
