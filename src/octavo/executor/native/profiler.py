"""Where the time of steps goes: an executor that has another one run its steps, and notes what each op took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from octavo.executor.base import Logits, Sizes, Step
from octavo.executor.native.executor import NativeExecutor, NativeStepResult
from octavo.executor.native.memory import NativeMemory
from octavo.executor.native.tape import Op
from octavo.graph.node import StepShape
from octavo.graph.ops.linear import Logits as LogitsNode


@dataclass
class OpProfile:
    """What the ops of one name did in some steps; a multiply-add counts as two of `flops`.

    `read_bytes` are those that must come from memory, of weights and of the cache. `layout` is that of the matrices
    that are multiplied with: of the cache's, the model's own type. It is None where there are none.
    """

    name: str
    layout: str | None = None
    seconds: float = 0.0
    calls: int = 0
    read_bytes: int = 0
    flops: int = 0


@dataclass
class StepsProfile:
    """Steps of one kind: how much they computed, and their time in seconds: of ops, of sampling, and of Python."""

    op_seconds: np.ndarray
    number: int = 0
    num_draws: int = 0
    num_with_logits: int = 0
    logit_rows: int = 0
    contexts: list[tuple[int, int]] = field(default_factory=list)  # as StepShape has them, of all steps
    sampling: float = 0.0
    python: float = 0.0

    @property
    def seconds(self) -> float:
        return float(self.op_seconds.sum()) + self.sampling + self.python

    @property
    def tokens(self) -> int:
        return sum(count for count, _ in self.contexts)

    def add(self, step: Step, op_seconds: np.ndarray, sampling: float, python: float) -> None:
        self.op_seconds += op_seconds
        self.sampling += sampling
        self.python += python
        self.number += 1
        self.num_draws += len(step.draws)
        self.num_with_logits += len(step.wanted.rows) > 0
        self.logit_rows += len(step.wanted.rows)
        self.contexts += zip(step.counts.tolist(), (step.starts + step.counts).tolist(), strict=True)

    def rows(self, ops: Sequence[Op], dtype: str) -> list[OpProfile]:
        """The ops of a tape, those of one name together, then sampling and Python."""
        shape = StepShape(self.contexts, self.logit_rows)  # costs of steps add up: so all are as one
        rows: dict[str, OpProfile] = {}
        for op, seconds in zip(ops, self.op_seconds.tolist(), strict=True):
            layout, times = layout_of(op, dtype), self.num_with_logits if _is_of_logits(op) else self.number
            name = label(op, dtype)
            row = rows.setdefault(name, OpProfile(name, layout))
            row.seconds += seconds
            row.calls += times
            used = op.weight_bytes(dtype, shape.tokens / max(1, self.number))
            row.read_bytes += round(used * times) + op.cache_bytes(shape, dtype)
            row.flops += op.flops(shape)
        sampling = OpProfile("sampling", seconds=self.sampling, calls=self.num_draws)
        return [*rows.values(), sampling, OpProfile("python", seconds=self.python, calls=self.number)]


class ProfiledExecutor:
    """Runs the steps of `inner`, which nobody else has run steps meanwhile.

    A step of one token for each of its sequences decodes; any other one is a prefill, at least in part. Python's time
    is what passes from the end of one step to the end of the next outside of ops and draws: plans, jobs, texts, and
    whatever its caller does with them.
    """

    def __init__(self, inner: NativeExecutor):
        self.inner, self.tape = inner, inner.tape
        self.output, self.runs_ahead = inner.output, inner.runs_ahead
        inner.native.set_profiling(True)
        self.begin()

    @property
    def sizes(self) -> Sizes:
        return self.inner.sizes

    @property
    def memory(self) -> NativeMemory:
        return self.inner.memory

    def begin(self) -> None:
        """Forgets all steps so far."""
        self._seen = np.array(self.inner.native.op_seconds())
        self._over: float | None = None  # when the last step was
        self.prefill, self.decode = (StepsProfile(np.zeros_like(self._seen)) for _ in range(2))

    def reset(self) -> None:
        self.inner.reset()

    def give_back(self) -> None:
        self.inner.give_back()

    def cross_attention(self, step: Step, heads: Sequence[tuple[int, int]]) -> Logits:
        return self.inner.cross_attention(step, heads)

    def run(self, step: Step) -> NativeStepResult:
        begin = perf_counter()
        result = self.inner.run(step)
        computed = perf_counter()
        if step.draws:
            _ = result.sampled  # they are drawn when they are asked for
        end = perf_counter()
        seconds = np.array(self.inner.native.op_seconds())
        spent, self._seen = seconds - self._seen, seconds
        python = computed - (begin if self._over is None else self._over) - float(spent.sum())
        steps = self.decode if (step.counts == 1).all() else self.prefill
        steps.add(step, spent, end - computed, python)
        self._over = perf_counter()
        return result


def label(op: Op, dtype: str) -> str:
    """An op and what it multiplies with, as "matmul gate_up int8"; a window of attention too."""
    if op.name == "matmul":
        return f"matmul {_matrix_name(op)} {layout_of(op, dtype)}"
    window = op.params.get("window")
    return f"{op.name} window {window}" if window else op.name


def layout_of(op: Op, dtype: str) -> str | None:
    if op.name == "matmul":
        return op.matrices["weight"].layout or dtype
    return dtype if op.name == "attend" else None


def _matrix_name(op: Op) -> str:
    """The last words of its weights' names: q_proj, k_proj and v_proj in one are q_k_v."""
    if _is_of_logits(op):
        return "logits"
    names = [weight.name.removesuffix(".weight").rpartition(".")[2] for weight in op.matrices["weight"].weights]
    return "_".join(dict.fromkeys(name.removesuffix("_proj") for name in names))


def _is_of_logits(op: Op) -> bool:
    return any(isinstance(node, LogitsNode) for node in op.nodes)
