"""`octavo bench`: what it writes has the documented shape, and the numbers agree with each other."""

import json
from pathlib import Path

import pytest

from octavo.cli.main import main

RATES = {"bytes_per_second", "bandwidth_share", "flops_per_second", "flops_share"}
STATISTICS = {"mean", "p50", "p90", "p99"}


def bench(capsys, tmp_path: Path, *arguments: str) -> dict:
    file = tmp_path / "bench.json"
    assert main(["bench", *arguments, "--output-json", str(file)]) == 0
    assert "limits: memory" in capsys.readouterr().out
    return json.loads(file.read_text())


def check_common(document: dict, kind: str) -> None:
    assert document["schema"] == "octavo-bench/1"
    assert document["kind"] == kind
    assert set(document["machine"]) == {"processor", "threads", "isa", "limits"}
    assert set(document["results"]["ttft_s"]) == STATISTICS
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        spread = document["results"][name]
        assert 0 < spread["p50"] <= spread["p90"] <= spread["p99"]


def test_latency_reports_prefill_and_decode(tiny, tmp_path, capsys):
    sizes = [
        "--input-len",
        "16",
        "--output-len",
        "8",
        "--batch-size",
        "3",
        "--num-iters",
        "2",
        "--warmup",
        "1",
    ]
    document = bench(capsys, tmp_path, "latency", tiny, *sizes)
    check_common(document, "latency")
    results = document["results"]
    assert set(results["prefill"]) == set(results["decode"]) == RATES | {"tokens_per_second"}
    assert results["prefill"]["tokens_per_second"] == pytest.approx(3 * 16 / results["ttft_s"]["mean"])
    assert results["decode"]["tokens_per_second"] == pytest.approx(3 / results["tpot_s"]["mean"])
    assert document["workload"]["batch_size"] == 3


def test_outputs_of_one_token_have_no_decode(tiny, tmp_path, capsys):
    sizes = ["--output-len", "1", "--num-iters", "1", "--warmup", "1"]
    results = bench(capsys, tmp_path, "latency", tiny, *sizes)["results"]
    assert results["decode"] is None
    assert results["tpot_s"] is None


def test_throughput_counts_all_tokens(tiny, tmp_path, capsys):
    sizes = ["--num-prompts", "5", "--random-input-len", "20", "--random-output-len", "4"]
    document = bench(capsys, tmp_path, "throughput", tiny, *sizes, "--max-num-seqs", "2")
    check_common(document, "throughput")
    results = document["results"]
    assert results["total_tokens_per_second"] * results["seconds"] == pytest.approx(5 * 24)
    assert results["output_tokens_per_second"] * results["seconds"] == pytest.approx(5 * 4)
    assert results["steps"] >= 5 * 4 / 2
    assert set(results["overall"]) == RATES
