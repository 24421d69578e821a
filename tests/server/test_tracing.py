"""Traces as a collector gets them: one span a request with its phases, and nothing that waits for the collector."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from octavo.errors import ConfigError
from octavo.request import RequestMetrics
from octavo.sampling_params import SamplingParams
from octavo.server.options import ServerConfig
from octavo.server.tracing import Tracer
from speech.encoded import wav

from .conftest import SPEECH, TEXT
from .running import until

pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SECRET = "the treasure is below the old oak"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OCTAVO_NUM_THREADS": "1"}


class Collector(ThreadingHTTPServer):
    """Takes what OTLP/HTTP sends."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.received, self.spans, self.resources = b"", [], []
        self.url = f"http://127.0.0.1:{self.server_port}/v1/traces"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def requests(self, count):
        """The spans of so many requests, once they are here; and by id all that were sent."""
        until(lambda: len([span for span in self.spans if span.name == "llm_request"]) >= count)
        found = [span for span in self.spans if span.name == "llm_request"]
        assert len(found) == count
        return found

    def inside(self, span):
        return {child.name: child for child in self.spans if child.parent_span_id == span.span_id}

    def close(self):
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        told = ExportTraceServiceRequest.FromString(body)
        self.server.received += body
        self.server.resources += [resource.resource for resource in told.resource_spans]
        self.server.spans += [
            span for resource in told.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    running = Collector()
    yield running
    running.close()


def attributes(holder):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes}


def seconds(span):
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def test_a_request_is_one_span_with_its_phases_and_no_text(start, tiny_model, collector):
    server = start(tiny_model, "--otlp-traces-endpoint", collector.url, environment=SOON)
    body = {"prompt": SECRET, "max_tokens": 12, "ignore_eos": True, "temperature": 0.5}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
    with server.client() as client:
        began, clock = time.time(), time.perf_counter()
        usage = client.post("/v1/completions", json=body, headers=headers).json()["usage"]
        took = time.perf_counter() - clock
    (span,) = collector.requests(1)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.kind == span.SPAN_KIND_SERVER
    assert span.status.code == span.status.STATUS_CODE_UNSET
    assert began - 0.1 < span.start_time_unix_nano / 1e9 < began + took + 0.1
    found = attributes(span)
    assert found["gen_ai.usage.prompt_tokens"] == found["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert found["gen_ai.usage.completion_tokens"] == 12
    assert (found["gen_ai.request.id"], found["gen_ai.request.max_tokens"]) == ("mine", 12)
    assert (found["gen_ai.operation.name"], found["http.route"]) == ("text_completion", "/v1/completions")
    assert found["gen_ai.request.temperature"] == 0.5
    phases = collector.inside(span)
    assert set(phases) == {"queue", "prefill", "decode"}
    assert sum(map(seconds, phases.values())) <= seconds(span) + 0.001 <= took + 0.002
    latency = {name.removeprefix("gen_ai.latency."): value for name, value in found.items() if "latency" in name}
    assert latency["time_in_model_decode"] == pytest.approx(seconds(phases["decode"]), abs=1e-3)
    assert latency["time_to_first_token"] == pytest.approx(
        latency["time_in_queue"] + latency["time_in_model_prefill"], abs=1e-6
    )
    assert latency["e2e"] == pytest.approx(seconds(span), abs=1e-3)
    assert attributes(collector.resources[0])["service.name"] == "octavo"
    assert server.stop() == 0
    assert b"treasure" not in collector.received
    assert len(collector.requests(1)) == 1


def test_speech_a_left_stream_and_an_error_are_a_span_each(start, real_model, whisper_model, collector, tmp_path):
    models = [
        {"model": str(real_model), "served-model-name": TEXT, "max-model-len": 512, "max-num-seqs": 4},
        {"model": str(whisper_model), "served-model-name": SPEECH, "max-num-seqs": 4},
    ]
    config = {"models": models, "otlp-traces-endpoint": collector.url, "shutdown-timeout": 0}
    (tmp_path / "serve.yaml").write_text(json.dumps(config))
    server = start("--config", tmp_path / "serve.yaml", environment=SOON)
    with server.client() as client:
        file = {"file": ("a.wav", wav((9000 * np.sin(np.arange(16000) / 6)).astype(np.int16)))}
        assert client.post("/v1/audio/transcriptions", data={"model": SPEECH}, files=file).status_code == 200
        (speech,) = collector.requests(1)
        assert attributes(speech)["gen_ai.operation.name"] == "transcription"
        assert attributes(speech)["gen_ai.request.model"] == SPEECH
        assert set(collector.inside(speech)) == {"queue", "prefill", "decode"}
        body = {"model": TEXT, "prompt": "a", "max_tokens": 400, "ignore_eos": True, "temperature": 0, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as stream:
            next(stream.iter_lines())
        left = collector.requests(2)[-1]
        assert left.status.code == left.status.STATUS_CODE_UNSET
        assert attributes(left)["error.type"] == "client_closed_request"
        assert {"queue", "prefill"} <= set(collector.inside(left))
        with client.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert server.stop() == 0
            assert "shutting_down" in "".join(lines)
    failed = collector.requests(3)[-1]
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert attributes(failed)["error.type"] == failed.status.message == "shutting_down"


def test_a_request_of_several_texts_has_phases_for_each(start, pooling_folder, words_model, collector):
    server = start(pooling_folder / "words", "--otlp-traces-endpoint", collector.url, environment=SOON)
    with server.client() as client:
        assert client.post("/v1/embeddings", json={"input": ["and so", "my fellow"]}).status_code == 200
        assert client.post("/v1/embeddings", json={"input": ""}).status_code == 400  # never queued
    (span,) = collector.requests(1)
    assert attributes(span)["gen_ai.operation.name"] == "embeddings"
    parts = [child for child in collector.spans if child.parent_span_id == span.span_id]
    assert {attributes(part)["octavo.prompt"] for part in parts} == {0, 1}


@pytest.mark.parametrize("listens", [False, True])
def test_a_collector_that_is_down_or_hangs_disturbs_nothing_and_the_end_is_soon(start, tiny_model, listens):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        server = start(tiny_model, "--otlp-traces-endpoint", url, environment={"OTEL_BSP_SCHEDULE_DELAY": "1"})
        with server.client() as client:
            for _ in range(5):
                assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200
        assert server.stop() == 0
    assert "the last spans are lost" in server.read_log()


@pytest.mark.parametrize("url", ["", "localhost:4317", "ftp://a", "http://", "http://a:b", "http://[", "http://a:0"])
def test_what_is_no_url_of_a_collector_is_refused(url):
    with pytest.raises(ConfigError, match="otlp_traces_endpoint"):
        ServerConfig(otlp_traces_endpoint=url)


def test_without_the_packages_the_flag_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[otel\]'"):
        Tracer("http://localhost:4318")


def test_the_protocol_is_that_of_the_url_or_of_the_environment(monkeypatch):
    from octavo.server.tracing import _exporter

    names = {
        url: type(_exporter(url)).__module__.split(".")[4] for url in ("http://a:4318", "http://a:4317", "grpc://a")
    }
    assert list(names.values()) == ["http", "grpc", "grpc"]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    assert _exporter("http://a:4317")._endpoint == "http://a:4317/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    with pytest.raises(ConfigError, match="http/json"):
        Tracer("http://a")


def test_what_goes_wrong_while_a_span_is_made_reaches_no_request(caplog):
    tracer = Tracer("http://localhost:1")
    tracer.record(SimpleNamespace(), "m", SimpleNamespace(), 0.0, {0: RequestMetrics(0.0)}, None)
    assert "a span could not be made" in caplog.text
    tracer.close()


def test_spans_go_over_grpc_too_and_the_last_ones_are_sent_at_the_end():
    grpc = pytest.importorskip("grpc", reason="needs grpcio")
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    spans = []

    class Servicer(service.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802
            spans.extend(span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans)
            return ExportTraceServiceResponse()

    collector = grpc.server(ThreadPoolExecutor(1))
    service.add_TraceServiceServicer_to_server(Servicer(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    tracer = Tracer(f"grpc://127.0.0.1:{port}")
    state = SimpleNamespace(request_id="mine")
    request = SimpleNamespace(scope={"path": "/v1/chat/completions"}, headers={}, state=state)
    told = SimpleNamespace(params=SamplingParams(), num_output_tokens=3, num_cached_tokens=1, num_prompt_tokens=5)
    now = time.monotonic()
    times = RequestMetrics(now - 1, now - 0.75, now - 0.5, now)
    tracer.record(request, "m", told, now - 1, {0: times}, None)
    tracer.close()
    collector.stop(None).wait()
    assert {span.name: round(seconds(span), 2) for span in spans} == {
        "queue": 0.25,
        "prefill": 0.25,
        "decode": 0.5,
        "llm_request": pytest.approx(1, abs=0.2),
    }
