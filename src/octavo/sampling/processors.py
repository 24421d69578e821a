"""Logits processors that users write for vLLM: functions of a request, and classes of an engine.

Each becomes a rule that is called in Python, with the row of one sequence. A row is a torch tensor where the program
has imported torch, and else a numpy array; both are float32, on the CPU, and may be changed in place. Stages and
interface are those of `vllm.v1.sample.logits_processor`. Its batches are of one sequence here, so each sequence has
instances of its own, and an error ends its request alone.
"""

from __future__ import annotations

import enum
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Self

import numpy as np

from octavo.errors import ConfigError, RequestError
from octavo.sampling.rules.base import Logits, Rule, RuleRequest, Stage
from octavo.sampling_params import GREEDY_BELOW, SamplingParams

Row = Any  # a torch tensor or a numpy array
RequestLogitsProcessor = Callable[..., Row]  # of (output ids, logits), or of (prompt ids, output ids, logits)


class MoveDirectionality(enum.Enum):
    """How a request moves within a batch."""

    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


RemovedRequest = int
AddedRequest = tuple[int, SamplingParams, Sequence[int] | None, Sequence[int]]
MovedRequest = tuple[int, int, MoveDirectionality]


@dataclass(frozen=True)
class BatchUpdate:
    """What has changed in a batch. The lists of output tokens in `added` grow with their sequences."""

    batch_size: int
    removed: Sequence[RemovedRequest]
    added: Sequence[AddedRequest]
    moved: Sequence[MovedRequest]


class LogitsProcessor(ABC):
    """What a user's class has to have. `validate_params` raises ValueError for parameters that it does not take."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        return None

    @abstractmethod
    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None: ...

    @abstractmethod
    def apply(self, logits: Row) -> Row:
        """The logits [batch, vocabulary], changed in place or anew."""

    @abstractmethod
    def is_argmax_invariant(self) -> bool:
        """Whether the likeliest token stays the likeliest: then it has no part in greedy sampling."""

    @abstractmethod
    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Called before each step; None where the batch has not changed."""


class AdapterLogitsProcessor(LogitsProcessor):
    """Makes a processor of functions, one for each request that wants it."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self.req_info: dict[int, Callable[[Row], Row]] = {}

    @abstractmethod
    def new_req_logits_processor(self, params: SamplingParams) -> RequestLogitsProcessor | None:
        """The function of a request, or None where its logits stay as they are."""

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.req_info, batch_update, self._bound)

    def apply(self, logits: Row) -> Row:
        for index, process in self.req_info.items():
            logits[index] = process(logits[index])
        return logits

    def _bound(
        self, params: SamplingParams, prompt: Sequence[int] | None, output: Sequence[int]
    ) -> Callable[[Row], Row] | None:
        process = self.new_req_logits_processor(params)
        return None if process is None else bound(process, list(prompt or ()), output)


def process_dict_updates(
    req_entries: dict[int, Any], batch_update: BatchUpdate | None, new_state: Callable[..., Any]
) -> bool:
    """Keeps a dict of states by index in step with a batch; returns whether it has changed. As vLLM's."""
    if batch_update is None:
        return False
    before = dict(req_entries)
    for index in batch_update.removed:
        req_entries.pop(index, None)
    for index, params, prompt, output in batch_update.added:
        req_entries.pop(index, None)
        if (state := new_state(params, prompt, output)) is not None:
            req_entries[index] = state
    for first, second, direction in batch_update.moved:
        moved, replaced = req_entries.pop(first, None), req_entries.pop(second, None)
        if moved is not None:
            req_entries[second] = moved
        if replaced is not None and direction is MoveDirectionality.SWAP:
            req_entries[first] = replaced
    return req_entries != before


def bound(process: RequestLogitsProcessor, prompt: Sequence[int], output: Sequence[int]) -> Callable[[Row], Row]:
    """A request's function as one of the row alone; `output` is read when it is called."""
    if len(inspect.signature(process).parameters) == 3:
        return lambda row: process(list(prompt), list(output), row)
    return lambda row: process(list(output), row)


@dataclass(frozen=True, eq=False)
class _Guarded:
    """What processors raised; rules of a request's sequences share it."""

    failures: list[RequestError] = field(default_factory=list)

    def apply(self, name: str, process: Callable[[Row], Row], logits: Logits) -> None:
        """Changes a row in place; after a failure no token of it can be drawn."""
        try:
            torch = sys.modules.get("torch")
            given = logits if torch is None else torch.from_numpy(logits)
            found = process(given)
            if found is not given:
                _store(found, logits)
            if not logits.max() < np.inf:
                raise ValueError("NaN or infinity among its logits")
        except Exception as error:
            reason = f"the logits processor {name} failed: {type(error).__name__}: {error}"
            self.failures.append(RequestError(reason))
            logits[:] = -np.inf

    @property
    def failure(self) -> RequestError | None:
        return self.failures[0] if self.failures else None


def _store(found: Any, logits: Logits) -> None:
    """Raises ValueError for what is no row."""
    if found is None:
        raise ValueError("returned None; return the logits")
    values = np.asarray(found, np.float32)
    if values.shape != logits.shape:
        raise ValueError(f"returned the shape {list(values.shape)}, and the logits' is {list(logits.shape)}")
    logits[:] = values


@dataclass(frozen=True, eq=False)
class RequestProcessors(Rule, name="logits_processors", stage=Stage.PROCESSOR):
    """The functions of a request, in their order."""

    functions: Sequence[RequestLogitsProcessor]
    prompt_token_ids: Sequence[int] = ()
    guard: _Guarded = field(default_factory=_Guarded)

    @classmethod
    def of(cls, request: RuleRequest) -> Self | None:
        functions = request.params.logits_processors
        return cls(tuple(functions), tuple(request.prompt_token_ids)) if functions else None

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        for function in self.functions:
            self.guard.apply(_name(function), bound(function, self.prompt_token_ids, output), logits)

    @property
    def failure(self) -> RequestError | None:
        return self.guard.failure


class _Seat:
    """A user's processor with a batch of one sequence, made when its first token is drawn."""

    def __init__(self, make: Callable[[], LogitsProcessor], request: RuleRequest, output: Sequence[int]):
        self.name = _name(make)
        self._make = make
        self._processor: LogitsProcessor | None = None
        self._added = (0, request.params, list(request.prompt_token_ids), output)

    def __call__(self, row: Row) -> Row:
        update = None
        if self._processor is None:
            self._processor, update = self._make(), BatchUpdate(1, (), (self._added,), ())
        self._processor.update_state(update)
        return self._processor.apply(row[None])[0]


@dataclass(frozen=True, eq=False)
class EngineProcessors(Rule, name="engine_processors", stage=Stage.PROCESSOR):
    """An engine's classes. Only the rule of a sequence, which `for_sequence` makes, changes anything."""

    classes: Sequence[Callable[[], LogitsProcessor]]
    request: RuleRequest
    guard: _Guarded = field(default_factory=_Guarded)
    seats: Sequence[_Seat] = ()

    def for_sequence(self, output: Sequence[int]) -> Self:
        seats = [_Seat(make, self.request, output) for make in self.classes]
        return type(self)(self.classes, self.request, self.guard, seats)

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        for seat in self.seats:
            self.guard.apply(seat.name, seat, logits)

    @property
    def failure(self) -> RequestError | None:
        return self.guard.failure


@dataclass(frozen=True, eq=False)
class InvariantProcessors(EngineProcessors, name="invariant_processors", stage=Stage.INVARIANT):
    """Those that leave the likeliest token the likeliest: they see logits that were divided by the temperature."""

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        temperature = np.float32(self.request.params.temperature)
        if temperature >= GREEDY_BELOW:
            logits /= temperature
            super().apply(logits, output)
            logits *= temperature


class LoadedProcessors:
    """The classes of an engine. Raises ConfigError for one that can't be made."""

    def __init__(self, classes: Sequence[type[LogitsProcessor]], vllm_config: Any):
        torch = sys.modules.get("torch")
        arguments = (vllm_config, "cpu" if torch is None else torch.device("cpu"), False)
        self.classes = classes
        self._makers: dict[type[Rule], list[Callable[[], LogitsProcessor]]] = {
            EngineProcessors: [],
            InvariantProcessors: [],
        }
        for cls in self.classes:
            try:
                is_invariant = cls(*arguments).is_argmax_invariant()
            except Exception as error:
                raise ConfigError("logits_processors", cls.__name__, f"{type(error).__name__}: {error}") from error
            kind = InvariantProcessors if is_invariant else EngineProcessors
            self._makers[kind].append(partial(cls, *arguments))

    def rules(self, request: RuleRequest) -> list[Rule]:
        """Those of a request. Raises RequestError for parameters that a class does not take."""
        for cls in self.classes:
            try:
                cls.validate_params(request.params)
            except ValueError as error:
                raise RequestError(f"the logits processor {cls.__name__} refuses the request: {error}") from error
        return [kind(makers, request) for kind, makers in self._makers.items() if makers]  # type: ignore[call-arg]


def vllm_config(model: str, max_model_len: int, vocab_size: int, max_num_seqs: int) -> Any:
    """What processors read of vLLM's configuration."""
    return SimpleNamespace(
        model_config=SimpleNamespace(model=model, max_model_len=max_model_len, get_vocab_size=lambda: vocab_size),
        scheduler_config=SimpleNamespace(max_num_seqs=max_num_seqs),
        speculative_config=None,
    )


def find_class(given: Any) -> type[LogitsProcessor]:
    """A class that was given as itself, or as "module:Class". Raises ConfigError for what is none."""
    found = given
    if isinstance(given, str):
        module, _, path = given.partition(":")
        try:
            found = attrgetter(path)(import_module(module))
        except (ImportError, AttributeError, ValueError) as error:
            reason = f"must be MODULE:CLASS of a module that can be imported: {error}"
            raise ConfigError("logits_processors", given, reason) from error
    if not isinstance(found, type) or not issubclass(found, LogitsProcessor):
        reason = "must be subclasses of octavo.v1.sample.logits_processor.LogitsProcessor"
        raise ConfigError("logits_processors", given, reason)
    return found


def _name(process: Any) -> str:
    process = getattr(process, "func", process)  # of a partial
    return getattr(process, "__name__", type(process).__name__)
