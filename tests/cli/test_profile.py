"""`--profile`: every op of a step is there, costs what its matrices say, and the times add up."""

import json
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from octavo import LLM, SamplingParams
from octavo.cli import profile
from octavo.cli.main import main
from octavo.cli.speed import measure_limits
from octavo.executor.native.profiler import label

from .processes import octavo

SIZES = ["--input-len", "16", "--output-len", "8", "--batch-size", "3", "--num-iters", "2", "--warmup", "1"]
OPS = {
    "embed",
    "angles",
    "rms_norm",
    "store",
    "attend",
    "matmul q_k_v bfloat16",
    "matmul o bfloat16",
    "matmul gate_up bfloat16",
    "matmul down bfloat16",
    "matmul logits bfloat16",
    "sampling",
    "python",
}


@pytest.fixture(scope="module")
def measured(tiny) -> dict:
    """The profile of 2 prompts of 20 and 9 tokens and 5 tokens of answer each, with the time that it took."""
    llm = LLM(str(tiny))
    executor = profile.start(llm)
    begin = time.perf_counter()
    prompts = [{"prompt_token_ids": [5] * 20}, {"prompt_token_ids": [7] * 9}]
    llm.generate(prompts, SamplingParams(max_tokens=5, ignore_eos=True), use_tqdm=False)
    seconds = time.perf_counter() - begin
    found = profile.measured(executor, llm.model.config, measure_limits(llm.model.config))
    return {"llm": llm, "profile": found, "seconds": seconds}


def by_name(steps: dict) -> dict[str, dict]:
    return {op["op"]: op for op in steps["ops"]}


def test_prefill_and_decode_have_all_ops_and_their_times_are_the_step_s(measured):
    found = measured["profile"]
    assert (found["prefill"]["steps"], found["prefill"]["tokens"]) == (1, 29)
    assert (found["decode"]["steps"], found["decode"]["tokens"]) == (4, 8)
    for kind in ("prefill", "decode"):
        ops = found[kind]["ops"]
        assert {op["op"] for op in ops} == OPS
        assert all(op["seconds"] > 0 for op in ops)
        assert sum(op["share"] for op in ops) == pytest.approx(1)
        assert sum(op["seconds"] for op in ops) == pytest.approx(found[kind]["seconds"])
        assert [op["seconds"] for op in ops] == sorted((op["seconds"] for op in ops), reverse=True)
    assert found["prefill"]["seconds"] + found["decode"]["seconds"] < measured["seconds"]


def test_bytes_and_flops_are_those_of_the_matrices_and_the_cache(measured):
    llm, decode = measured["llm"], by_name(measured["profile"]["decode"])
    for op in llm.model.executor.tape.ops:
        if op.name == "matmul":
            row, (matrix,) = decode[label(op, "bfloat16")], op.matrices.values()
            assert row["read_bytes"] == matrix.nbytes("bfloat16") * row["calls"]
            values = sum(weight.size for weight in matrix.weights)
            assert row["flops"] == 2 * values * 2 * row["calls"], "two tokens a step"
    assert decode["matmul gate_up bfloat16"]["calls"] == 4 * 2, "steps and layers"
    assert decode["sampling"]["calls"] == 8
    keys = sum(prompt + step for prompt in (20, 9) for step in range(1, 5))
    assert decode["attend"]["read_bytes"] == 2 * keys * 2 * (16 + 16) * 2, "layers, keys, heads, dimensions, bfloat16"
    assert decode["attend"]["flops"] == 2 * keys * 2 * 4 * (16 + 16)


def test_what_has_no_logits_reads_no_matrix_for_them(tiny):
    llm = LLM(str(tiny), max_num_batched_tokens=256, max_num_seqs=1)
    executor = profile.start(llm)
    llm.generate({"prompt_token_ids": [5] * 400}, SamplingParams(max_tokens=1), use_tqdm=False)
    prefill = by_name(profile.measured(executor, llm.model.config)["prefill"])
    assert prefill["matmul o bfloat16"]["calls"] == 2 * 2
    assert prefill["matmul logits bfloat16"]["calls"] == 1
    assert prefill["matmul logits bfloat16"]["read_bytes"] == executor.tape.ops[-1].weight_bytes("bfloat16", 1)


def test_an_engine_that_is_profiled_gives_the_same_tokens(tiny):
    params = SamplingParams(max_tokens=12, seed=3, ignore_eos=True)
    plain, profiled = LLM(str(tiny)), LLM(str(tiny))
    profile.start(profiled)
    answers = [llm.generate("a b", params, use_tqdm=False)[0].outputs[0].token_ids for llm in (plain, profiled)]
    assert answers[0] == answers[1]


def test_the_table_has_a_line_for_each_op_in_a_hundred_columns(measured):
    text = profile.table(measured["profile"])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    head = next(line for line in lines if "ms/step" in line)
    assert head.split() == ["ms/step", "share", "calls/step", "GB/s", "GFLOP/s", "of", "limit"]
    assert {line[: profile.NAME_WIDTH].strip() for line in lines[lines.index(head) :]} >= OPS | {"all"}
    assert "memory" in lines[0]
    assert "bfloat16" in lines[0]


def test_bench_counts_what_is_measured_alone_and_draws_it(tiny, tmp_path, capsys):
    files = {ending: tmp_path / f"profile.{ending}" for ending in ("png", "svg", "json")}
    for ending in ("png", "svg"):
        flags = ["--profile", str(files[ending]), "--output-json", str(files["json"])]
        assert main(["bench", "latency", str(tiny), *SIZES, *flags]) == 0
    out = capsys.readouterr().out
    assert "decode, steps of one token for each request: 14 with 42 tokens" in out, "without the warm-up"
    document = json.loads(files["json"].read_text())
    assert document["results"]["profile"]["prefill"]["tokens"] == 2 * 3 * 16
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    drawing = ElementTree.fromstring(files["svg"].read_text())
    texts = [element.text for element in drawing.iter() if element.tag.endswith("text")]
    assert texts.count("matmul gate_up bfloat16") == 2


def test_bench_throughput_needs_no_file(tiny, capsys):
    sizes = ["--num-prompts", "2", "--input-len", "8", "--output-len", "3"]
    assert main(["bench", "throughput", str(tiny), *sizes, "--profile"]) == 0
    assert "prefill, steps with tokens of prompts: 1 with 16 tokens" in capsys.readouterr().out


def test_run_says_it_behind_its_line_about_speed(tiny):
    flags = ["--temperature", "0", "--max-tokens", "4", "--ignore-eos", "--profile"]
    result = octavo("run", tiny, "hi", *flags)
    assert result.returncode == 0
    assert "decode, steps of one token for each request: 3 with 3 tokens" in result.stderr
    found = json.loads(octavo("run", tiny, "hi", *flags, "--json").stdout)["profile"]
    assert {op["op"] for op in found["decode"]["ops"]} == OPS


@pytest.mark.parametrize("command", [["bench", "latency"], ["run", "hi"]])
def test_the_torch_executor_is_refused_by_name(tmp_path, capsys, command):
    pytest.importorskip("torch")
    flags = ["--model", str(tmp_path / "none"), "--executor", "torch", "--device", "cpu", "--profile"]
    assert main([*command, *flags]) == 2
    error = capsys.readouterr().err
    assert error == "octavo: --profile: the torch executor does not time its ops; the native one does\n"


def test_a_picture_that_can_t_be_drawn_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    model = str(tmp_path / "none")
    assert main(["bench", "latency", model, "--profile", str(tmp_path / "a.html")]) == 2
    assert "a.html': the name must end in .png, .svg" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "latency", model, "--profile", str(tmp_path / "a.png")]) == 2
    assert "--profile is drawn by Matplotlib, which is not installed" in capsys.readouterr().err


def test_every_number_that_is_written_is_explained(measured):
    schema = (Path(__file__).parents[2] / "benchmarks" / "schema.md").read_text(encoding="utf-8")
    decode = measured["profile"]["decode"]
    for name in ("profile", *measured["profile"], *decode, *decode["ops"][0]):
        assert f"`{name}`" in schema, name
