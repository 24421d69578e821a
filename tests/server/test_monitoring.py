"""What monitors read: probes, metrics and the log."""

import html
import json
import logging
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo.cli.server_flags import SERVER_FLAGS
from octavo.engine.driver import EngineStats
from octavo.server.logs import StatsLine

from .running import exchange, until

DOCS = Path(__file__).parents[2] / "docs"
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "ignore_eos": True}


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(found, name, **labels):
    family = found[re.sub("_(total|count|sum|bucket)$", "", name)]
    return sum(s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items())


# Dashboards read these names: a change of one empties a panel.
PINNED = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:gpu_cache_usage_perc": "gauge",
    "vllm:num_requests_waiting_by_reason": "gauge",
    "vllm:engine_sleep_state": "gauge",
    "vllm:cache_config_info": "gauge",
    "vllm:prompt_tokens": "counter",
    "vllm:prompt_tokens_cached": "counter",
    "vllm:prompt_tokens_by_source": "counter",
    "vllm:generation_tokens": "counter",
    "vllm:prefix_cache_queries": "counter",
    "vllm:prefix_cache_hits": "counter",
    "vllm:gpu_prefix_cache_queries": "counter",
    "vllm:gpu_prefix_cache_hits": "counter",
    "vllm:num_preemptions": "counter",
    "vllm:request_success": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:time_per_output_token_seconds": "histogram",
    "vllm:request_time_per_output_token_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_inference_time_seconds": "histogram",
    "vllm:request_prefill_time_seconds": "histogram",
    "vllm:request_decode_time_seconds": "histogram",
    "vllm:request_prompt_tokens": "histogram",
    "vllm:request_prefill_kv_computed_tokens": "histogram",
    "vllm:request_generation_tokens": "histogram",
    "vllm:request_max_num_generation_tokens": "histogram",
    "vllm:iteration_tokens_total": "histogram",
    "vllm:request_params_max_tokens": "histogram",
    "vllm:request_params_n": "histogram",
    "octavo:model_ready": "gauge",
    "octavo:model_status": "gauge",
    "octavo:model_memory_bytes": "gauge",
    "octavo:model_loads": "counter",
    "octavo:model_load_seconds": "counter",
    "octavo:model_unloads": "counter",
    "octavo:engine_restarts": "counter",
    "octavo:kv_cache_tokens": "gauge",
    "octavo:prefix_cache_disk_bytes": "gauge",
    "octavo:prefix_cache_disk_hits": "counter",
    "octavo:prefix_cache_disk_read_bytes": "counter",
    "octavo:prefix_cache_disk_written_bytes": "counter",
    "octavo:prefix_cache_disk_written_blocks": "counter",
    "octavo:prefix_cache_disk_dropped_blocks": "counter",
    "octavo:prefix_cache_disk_damaged_files": "counter",
    "octavo:prefix_cache_disk_errors": "counter",
    "octavo:queued_tokens": "gauge",
    "octavo:audio_seconds": "counter",
    "octavo:requests_failed": "counter",
    "octavo:requests_refused": "counter",
    "octavo:batches": "gauge",
    "octavo:http_requests": "counter",
    "http_requests": "counter",
}


def test_the_page_of_serving_has_every_flag():
    page = (DOCS / "serving.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `--([\w-]+)", page, re.MULTILINE))
    assert listed == {
        "config",
        "served-model-name",
        "alias",
        "tags",
        *(flag.name.replace("_", "-") for flag in SERVER_FLAGS),
    }


def test_metrics_have_these_names_and_types(http):
    found = families(http.get("/metrics").text)
    ours = {name: family.type for name, family in found.items() if not name.startswith(("process_", "python_"))}
    assert ours == PINNED
    assert "process_resident_memory_bytes" in found


def test_the_page_of_metrics_lists_them_all_with_their_types():
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([\w:]+)` \| (gauge|counter|histogram) \|", page, re.MULTILINE))
    assert listed == {name + "_total" * (kind == "counter"): kind for name, kind in PINNED.items()}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_counted_once_everywhere(http, stream):
    before = families(http.get("/metrics").text)
    answer = http.post("/v1/chat/completions", json={**HELLO, "stream": stream})
    assert answer.status_code == 200
    after = families(http.get("/metrics").text)

    def rise(name, **labels):
        return value(after, name, **labels) - value(before, name, **labels)

    assert rise("vllm:request_success_total", finished_reason="length") == 1
    assert rise("vllm:generation_tokens_total") == 8
    assert rise("vllm:prompt_tokens_total") > 0
    assert rise("vllm:inter_token_latency_seconds_count") == 7
    for name, family in after.items():
        several = ("token_latency", "time_per_output", "iteration_tokens")
        if family.type == "histogram" and not any(part in name for part in several):
            assert rise(f"{name}_count") == 1, name
    assert rise("vllm:iteration_tokens_total_count") == 8  # a step for each token, the prompt's with the first
    assert rise("vllm:request_max_num_generation_tokens_sum") == 8
    path = "/v1/chat/completions"
    assert rise("http_requests_total", method="POST", handler=path, status="2xx") == 1
    assert rise("octavo:http_requests_total", method="POST", path=path, status="200") == 1
    assert value(after, "vllm:num_requests_running") == value(after, "vllm:num_requests_waiting") == 0


def test_prompt_tokens_are_told_by_whether_the_prefix_cache_had_them(http):
    body = {"messages": [{"role": "user", "content": "count " * 100}], "max_tokens": 1, "cache_salt": "monitoring"}
    rises = []
    for _ in range(2):
        before = families(http.get("/metrics").text)
        usage = http.post("/v1/chat/completions", json=body).json()["usage"]
        after = families(http.get("/metrics").text)
        names = {
            "all": ("vllm:prompt_tokens_total", {}),
            "cached": ("vllm:prompt_tokens_cached_total", {}),
            "computed": ("vllm:prompt_tokens_by_source_total", {"source": "local_compute"}),
            "hits": ("vllm:prompt_tokens_by_source_total", {"source": "local_cache_hit"}),
            "prefill": ("vllm:request_prefill_kv_computed_tokens_sum", {}),
            "steps": ("vllm:iteration_tokens_total_sum", {}),
        }
        rise = {key: value(after, name, **by) - value(before, name, **by) for key, (name, by) in names.items()}
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert rise["all"] == usage["prompt_tokens"]
        assert rise["cached"] == rise["hits"] == cached
        assert rise["computed"] == rise["prefill"] == rise["steps"] == usage["prompt_tokens"] - cached
        rises.append(rise["cached"])
    assert rises[0] == 0 < rises[1]


def test_the_cache_s_configuration_is_labels_of_a_one(http):
    (sample,) = families(http.get("/metrics").text)["vllm:cache_config_info"].samples
    assert sample.value == 1
    assert int(sample.labels["num_gpu_blocks"]) * int(sample.labels["block_size"]) >= 2048
    assert sample.labels["enable_prefix_caching"] == "True"


def test_labels_name_the_model_and_nothing_that_clients_choose(http):
    http.get("/v1/models/made-up")
    http.get("/made-up")
    http.post("/v1/completions", json={"model": "made-up", "prompt": "a"})
    text = http.get("/metrics").text
    assert "made-up" not in text
    assert 'model_name="tiny-assistant"' in text


def test_a_monitor_reads_models_and_health_as_json(http):
    assert len(http.get("/v1/models").json().get("data", [])) == 1
    assert http.get("/health").json()["status"] == "ok"
    assert http.get("/livez").json()["status"] == "alive"
    assert http.get("/readyz").json()["status"] == "ready"
    assert http.get("/ping").status_code == http.post("/ping").status_code == 200
    assert re.fullmatch(r"\d+\.\d+\.\d+", http.get("/version").json()["version"])
    assert http.get("/load").json()["server_load"] == 0


def test_readiness_says_the_phase_while_a_model_is_loading_and_the_port_answers(start, real_model):
    server = start(real_model, "--served-model-name", "slow", wait="listening on")
    seen = set()
    with server.client() as client:
        while (answer := client.get("/readyz")).status_code == 503:
            seen.add(answer.json()["models"]["slow"])
            assert answer.headers["retry-after"]
            assert client.get("/livez").status_code == 200
            refused = client.post("/v1/chat/completions", json=HELLO)
            assert refused.status_code in (200, 503)
            if refused.status_code == 503:
                assert refused.json()["error"]["code"] == "model_loading"
            listed = client.get("/v1/models").json()["data"]
            assert [card["id"] for card in listed] == ["slow"]
        assert answer.json()["models"] == {"slow": "ready"}
    assert seen <= {"waiting", "finding the model", "reading headers", "loading weights"}


def test_the_log_says_phases_the_address_the_plan_and_a_curl_line_that_works(start, tiny_model):
    server = start(tiny_model)
    log = server.read_log()
    for text in (
        "listening on http://",
        "finding the model",
        "loading weights",
        "KV cache",
        " tokens, ",
        "ready: http://",
    ):
        assert text in log
    line = shlex.split(re.search(r"try it: (curl .+)", log)[1])
    done = subprocess.run([*line, "-s"], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["object"] == "chat.completion"


def test_each_request_is_one_line_with_its_id(start, tiny_model):
    server = start(tiny_model, "--log-format", "json")
    with server.client() as client:
        client.post("/v1/chat/completions", json=HELLO, headers={"x-request-id": "mine"})
        client.get("/health")
    head = b"GET /nothing%0d%0aforged HTTP/1.1\r\nHost: a\r\nX-Request-Id: theirs\r\nConnection: close\r\n\r\n"
    assert exchange(server, head)[0] == 404
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.read_log().splitlines()]
    (mine,) = [line for line in lines if line.get("id") == "mine"]
    assert (mine["status"], mine["output_tokens"], mine["client"]) == (200, 8, "anyone")
    (theirs,) = [line for line in lines if line.get("id") == "theirs"]
    assert theirs["status"] == 404
    assert not any("/health" in line["message"] for line in lines)


def test_statistics_are_logged_while_busy_and_not_while_idle(caplog):
    idle = EngineStats(output_tokens=7)
    stats = [EngineStats(), EngineStats(running=1, output_tokens=5), idle, idle]
    model = SimpleNamespace(id="tiny", stats=iter(stats).__next__)
    line = StatsLine(SimpleNamespace(models=[model]))
    with caplog.at_level(logging.INFO, "octavo.server"):
        for _ in stats[1:]:
            line.write()
    assert [record.fields["running"] for record in caplog.records] == [1, 0]
    assert all(record.fields["generation_tokens_per_s"] > 0 for record in caplog.records)


def test_a_busy_server_logs_its_statistics(start, tiny_model):
    server = start(tiny_model)
    with server.client() as client:

        def is_logged():
            client.post("/v1/chat/completions", json={**HELLO, "max_tokens": 6000})
            return "generation_tokens_per_s" in server.read_log()

        until(is_logged)


def test_docs_describe_every_endpoint_and_fetch_nothing(http):
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in http.get("/openapi.json").json()["paths"]:
        assert path in page.text
    assert not re.search(r"<script|<link|src=|url\(|href='[^'#]*//", page.text)


def test_docs_begin_with_chat_and_give_contents_examples_and_defaults(http):
    page = http.get("/docs").text
    headings = re.findall(r"<h2 id='([^']+)'><code>([^<]+)", page)
    assert headings[0][1] == "POST /v1/chat/completions"
    assert re.findall(r"<li><a href='#([^']+)'", page) == [anchor for anchor, _ in headings]
    examples = [shlex.split(html.unescape(line)) for line in re.findall(r"<pre>(.+?)</pre>", page)]
    assert len(examples) == len(headings)
    assert {line[0] for line in examples} == {"curl"}
    _, address, *_, body = examples[0]
    answer = http.post(address, json={**json.loads(body), "max_tokens": 2})
    assert answer.status_code == 200
    assert "<code>temperature</code></dt><dd>number ≥ 0; default: the model&#x27;s, or else 1.0" in page
    assert "<code>n</code></dt><dd>integer ≥ 1 ≤ 128; default: 1" in page
    assert "name='viewport' content='width=device-width" in page  # a phone shows it at its own width
