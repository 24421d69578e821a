"""Traces of requests, sent to an OpenTelemetry collector: a span for each, with its time in the queue and at work.

OpenTelemetry's packages are imported only where traces are asked for. Spans have no text of any request.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from octavo.errors import ConfigError
from octavo.request import RequestMetrics
from octavo.server.errors import ClientGoneError, body_of
from octavo.version import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from starlette.requests import Request

    from octavo.sampling_params import SamplingParams

logger = logging.getLogger("octavo.server")
OPTION = "otlp_traces_endpoint"
INSTALL = "pip install '.[otel]' in a checkout of Octavo"
PROTOCOLS = ("http/protobuf", "grpc")
PATIENCE = 1.0  # seconds that the last spans have when the server ends
MOST_PARTS = 32  # prompts of a request whose phases are told one by one
OPERATIONS = {  # beginnings of paths, and OpenTelemetry's word for what is done there
    "/v1/completions": "text_completion",
    "/api/generate": "text_completion",
    "/v1/audio": "transcription",
    "/v1/realtime": "realtime",
    **dict.fromkeys(("/v1/embeddings", "/api/embed", "/pooling"), "embeddings"),
    **dict.fromkeys(("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"), "rerank"),
    "/classify": "classify",
}


class Traced(Protocol):
    """What is told of a request that has been at an engine."""

    params: SamplingParams
    num_output_tokens: int
    num_cached_tokens: int

    @property
    def num_prompt_tokens(self) -> int: ...


class Tracer:
    """Makes spans and hands them to a thread that sends them: no request waits for the collector, nor fails with it."""

    def __init__(self, endpoint: str):
        """Raises ConfigError where OpenTelemetry's packages are missing, or its variables say what can't be."""
        try:
            from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            self._exporter = _exporter(endpoint)
        except ImportError as error:
            raise ConfigError(
                OPTION, endpoint, f"needs OpenTelemetry, and there is no {error.name}: {INSTALL}"
            ) from None
        except ValueError as error:
            raise ConfigError(OPTION, endpoint, f"OpenTelemetry's variables OTEL_… are wrong: {error}") from None
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "octavo"}))
        resource = Resource({SERVICE_VERSION: __version__}).merge(resource)
        self._provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._spans = self._provider.get_tracer("octavo", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self,
        request: Request,
        model: str,
        told: Traced,
        began: float,
        times: Mapping[int, RequestMetrics],
        error: BaseException | None,
    ) -> None:
        """Makes the span of a request that ends now; it `began` at a time of time.monotonic().

        `times` are those of its prompts, by their places. Nothing is raised: who asked has an answer to get.
        """
        try:
            self._record(request, model, told, began, times, error)
        except Exception:
            logger.exception("a span could not be made")

    def close(self) -> None:
        """Sends what has not been sent yet, and gives that up after a second."""
        sender = threading.Thread(target=self._provider.shutdown, name="octavo-traces", daemon=True)
        sender.start()
        sender.join(PATIENCE)
        if sender.is_alive():
            logger.warning("the collector of traces does not answer: the last spans are lost")
            self._exporter.shutdown()

    def _record(
        self,
        request: Request,
        model: str,
        told: Traced,
        began: float,
        times: Mapping[int, RequestMetrics],
        error: BaseException | None,
    ) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        now, offset = time.monotonic(), time.time() - time.monotonic()

        def nanoseconds(moment: float) -> int:
            return int((moment + offset) * 1e9)

        attributes = {**_of_request(request, model, told), **_latencies(began, now, list(times.values()))}
        context: Context = self._propagator.extract(dict(request.headers))
        span = self._spans.start_span(
            "llm_request", context, SpanKind.SERVER, attributes, start_time=nanoseconds(began)
        )
        inside = set_span_in_context(span)
        for place in sorted(times)[:MOST_PARTS]:
            part = {"octavo.prompt": place} if len(times) > 1 else None
            for name, begin, end in _phases(times[place], now):
                child = self._spans.start_span(name, inside, attributes=part, start_time=nanoseconds(begin))
                child.end(nanoseconds(end))
        if error is not None:
            code = "cancelled" if not isinstance(error, Exception) else body_of(error)["error"]["code"]
            span.set_attribute("error.type", code)
            if not isinstance(error, ClientGoneError):
                span.set_status(Status(StatusCode.ERROR, code))
        span.end(nanoseconds(now))


def _exporter(endpoint: str) -> SpanExporter:
    """The exporter for the protocol that the environment says, or else the URL."""
    parts = urlsplit(endpoint)
    said = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    is_grpc = parts.scheme in ("grpc", "grpcs") or (parts.port == 4317 and not parts.path.strip("/"))
    protocol = said or PROTOCOLS[is_grpc]
    if protocol not in PROTOCOLS:
        raise ValueError(f"the protocol {protocol!r} must be one of {', '.join(PROTOCOLS)}")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint=parts.netloc, insecure=parts.scheme in ("http", "grpc"))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    scheme = {"grpc": "http", "grpcs": "https"}.get(parts.scheme, parts.scheme)
    path = parts.path if parts.path.strip("/") else "/v1/traces"
    return HttpExporter(endpoint=parts._replace(scheme=scheme, path=path).geturl())


def _of_request(request: Request, model: str, told: Traced) -> dict[str, Any]:
    """Attributes under the names of OpenTelemetry's conventions for generative AI, and under vLLM's."""
    route = str(getattr(request.scope.get("route"), "path", request.scope["path"]))
    params = told.params
    operation = next((word for path, word in OPERATIONS.items() if route.startswith(path)), "chat")
    read, written = told.num_prompt_tokens, told.num_output_tokens
    found = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "octavo",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.request.id": request.state.request_id,
        "gen_ai.usage.prompt_tokens": read,
        "gen_ai.usage.completion_tokens": written,
        "gen_ai.usage.input_tokens": read,
        "gen_ai.usage.output_tokens": written,
        "gen_ai.usage.cache_read.input_tokens": told.num_cached_tokens,
        "http.route": route,
    }
    if operation in ("chat", "text_completion"):
        found |= {
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.n": params.n,
            "gen_ai.usage.num_sequences": params.num_sequences,
        }
        if params.max_tokens is not None:
            found["gen_ai.request.max_tokens"] = params.max_tokens
    return found


def _latencies(began: float, now: float, times: list[RequestMetrics]) -> dict[str, float]:
    """Seconds, under vLLM's names; of several prompts from the first one's begin to the last one's end."""
    found = {"gen_ai.latency.e2e": now - began}
    begun = [each.first_scheduled_time for each in times if each.first_scheduled_time is not None]
    if not begun:
        return found
    first, end = min(begun), max(each.finished_time or now for each in times)
    found["gen_ai.latency.time_in_queue"] = first - began
    found["gen_ai.latency.time_in_model_inference"] = end - first
    if tokens := [each.first_token_time for each in times if each.first_token_time is not None]:
        found["gen_ai.latency.time_to_first_token"] = min(tokens) - began
        found["gen_ai.latency.time_in_model_prefill"] = min(tokens) - first
        found["gen_ai.latency.time_in_model_decode"] = end - min(tokens)
    return found


def _phases(times: RequestMetrics, now: float) -> Iterator[tuple[str, float, float]]:
    """Names, begins and ends of what a request at an engine has been through."""
    end, scheduled, first_token = times.finished_time or now, times.first_scheduled_time, times.first_token_time
    yield "queue", times.arrival_time, end if scheduled is None else scheduled
    if scheduled is not None:
        yield "prefill", scheduled, end if first_token is None else first_token
    if first_token is not None:
        yield "decode", first_token, end
