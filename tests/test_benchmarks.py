"""The scripts in benchmarks/ run, on a model small enough to be quick anywhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import make_tiny_llama
from encoders import ENCODERS, save_words

ROOT = Path(__file__).parents[1]


def test_every_op_is_timed_beside_the_limits():
    sizes = ["--rows", "2", "70", "--context", "40", "--repeat", "1"]
    command = [sys.executable, ROOT / "benchmarks/ops.py", *sizes]
    head, *lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert head.split()[:3] == ["op", "rows", "µs"]
    names = {line[:20].rstrip() for line in lines}
    assert len(lines) == 2 * len(names)
    assert {"route", "experts", "delta", "causal_conv", "attention, sinks", "position_scale", "join"} <= names
    for line in lines:
        rows, microseconds, kilobytes = map(float, line[20:].split()[:3])
        assert rows in (2, 70)
        assert microseconds > 0
        assert kilobytes > 0


def test_the_gpu_script_checks_and_writes_its_table(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--device", "cpu", "--models", "tiny", "--batches", "1", "2"]
    sizes = ["--context", "40", "--prompt", "32", "--output", tmp_path / "table.md", "--directory", tmp_path]
    subprocess.run([*command, *sizes, "--without-transformers"], check=True, capture_output=True)
    table = (tmp_path / "table.md").read_text()
    assert "240 of 240 greedy tokens are the same" in table
    assert "| TPOT, 2 requests of 40 tokens |" in table
    assert "| prefill, prompts of 32 tokens |" in table


def test_streams_are_measured_alone_and_beside_clients_that_embed(tmp_path):
    ENCODERS["BERT"].save(tmp_path / "words")
    save_words(tmp_path / "words")
    chat = make_tiny_llama(tmp_path / "chat", max_position_embeddings=2048)
    command = [sys.executable, ROOT / "benchmarks/beside.py", "--embedder", tmp_path / "words", "--chat", chat]
    sizes = "--clients 3 --streams 2 --rounds 1 --answers 1 --output-len 8 --batch-size 2 --max-len 30 --most 1e9"
    result = subprocess.run([*command, *sizes.split()], check=True, capture_output=True, text=True)
    line, ratio, errors = result.stdout.splitlines()
    assert "failed {}" in line
    assert float(line.rpartition("; failed")[0].rpartition("; ")[2].split()[0]) > 0  # texts per second
    assert ratio.startswith("2 streams beside 3 clients that embed: p99")
    assert errors.split()[-3:] == ["0", "≤", "0"]


def test_texts_of_a_random_model_fit_their_schemas():
    command = [sys.executable, ROOT / "benchmarks/structured.py", "random", "--texts", "20", "--schemas", "10"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert out.startswith("20 texts: ")


def test_deployments_are_measured(tmp_path):
    chat = make_tiny_llama(tmp_path / "chat", max_position_embeddings=256)
    command = [sys.executable, ROOT / "benchmarks/deployment.py"]
    for workload in ("transports", "places"):
        arguments = [*command, workload, "--model", chat, "--rounds", "1"]
        result = subprocess.run(arguments, check=True, capture_output=True, text=True)
        assert "to first token: " in result.stdout


def test_plans_are_compared_with_what_is_measured(tmp_path):
    model = make_tiny_llama(tmp_path / "model", max_position_embeddings=256)
    command = [sys.executable, ROOT / "benchmarks/plan.py", model, "--rounds", "1", "--directory", tmp_path]
    done = subprocess.run([*command, "--output-json", tmp_path / "found.json"], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # whether the bars are met is not for a busy machine to say
    assert done.stdout.splitlines()[-1].endswith("within 5% of memory and 30% of speed")
    found = {row["what"]: row for row in json.loads((tmp_path / "found.json").read_text())}
    assert [*found] == ["memory", "decode_alone", "decode_together", "prefill"]
    assert found["memory"]["planned"] == pytest.approx(found["memory"]["measured"], rel=0.25)
    assert all(row["measured"] > 0 for row in found.values())


def test_a_look_at_an_engine_is_timed():
    command = [sys.executable, ROOT / "benchmarks/engine_room.py", "--blocks", "100", "--sequences", "4"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["0%", "50%", "100%", "the"]


def test_replicas_are_restarted_under_load_and_no_request_fails(tmp_path):
    if shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip("nginx is not installed")
    model = make_tiny_llama(tmp_path / "tiny", max_position_embeddings=2048)
    sizes = ["--minutes", "0.02", "--capacity-seconds", "1", "--threads", "1", "--json", tmp_path / "result.json"]
    command = [sys.executable, ROOT / "benchmarks/rolling_restart.py", model, *sizes]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["kind"], written["failed"], written["exit_codes"]) == ("rolling-restart", {}, [])
    assert written["requests"] > 0
    assert written["restarts"] > 0


def test_prompts_from_disk_have_the_answers_of_computed_ones(tmp_path):
    model = make_tiny_llama(tmp_path / "tiny", max_position_embeddings=512)
    command = [sys.executable, ROOT / "benchmarks/prefix_disk.py", model, "--dir", tmp_path, "--prompt-len", "192"]
    result = subprocess.run([*command, "--rounds", "1", "--requests", "2"], check=False, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert "(160 tokens)" in lines[0]
    assert lines[3].split()[:5] == ["answers", "that", "differ", "0", "≤"]
    assert lines[-1].startswith("tok/s of answers where all is kept, beside nothing: ")
