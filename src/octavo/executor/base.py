"""What an engine needs of an executor, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from octavo.graph.cache import PagedCache
from octavo.request import Request, Sequence, StepPlan
from octavo.sampling.options import SamplerOptions

UNUSABLE_LOGITS, ALL_BANNED = -1, -2  # in place of a drawn token: NaN or infinity; every token is banned
Logits = np.ndarray[Any, np.dtype[np.float32]]
Ids = np.ndarray[Any, np.dtype[np.int32]]


class Sampler(Protocol):
    """How one sequence's tokens are drawn: its parameters, its history, its random stream."""

    def accept(self, token: int) -> None:
        """Notes that `token` has become the sequence's next one."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A token to be drawn by `sampler`, from the logits after the last token of the plan's chunk number `chunk`."""

    chunk: int
    sampler: Sampler


class Sampled(Protocol):
    """Tokens and what is reported with them, one entry per draw; see `octavo._native.SampleResult`."""

    @property
    def tokens(self) -> Ids:
        """UNUSABLE_LOGITS or ALL_BANNED where there is none."""

    @property
    def logprobs(self) -> Logits: ...

    @property
    def ranks(self) -> Ids: ...

    def top(self, i: int) -> tuple[Ids, Logits]: ...


class StepResult(Protocol):
    """What a step gives. The step may still be running: to read tokens or logits is to wait for them.

    `rows[i]` is the range of rows of the plan's i-th chunk, see `StepPlan.logit_rows`.
    """

    @property
    def rows(self) -> list[range]: ...

    @property
    def logits(self) -> Logits:
        """float32 [rows, vocabulary], valid until the next step is begun."""

    @property
    def sampled(self) -> Sampled: ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """What an executor must have room for: KV blocks, the limits of a step, and the longest sequence."""

    vocab_size: int
    num_blocks: int
    block_size: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_logit_rows: int
    max_model_len: int
    source_positions: int = 0  # of what an encoder reads


class Footprint(Protocol):
    """What an executor takes for a graph, in a model of `dtype`: bytes."""

    @property
    def layers(self) -> SequenceOf[PagedCache]:
        """Of the KV cache."""

    def weight_bytes(self, dtype: str) -> int:
        """Of all weights, as they lie in memory."""

    def workspace_bytes(self, dtype: str, sizes: Sizes) -> int:
        """Of everything that steps of these sizes need besides."""

    def page_bytes(self, dtype: str, block_size: int) -> int:
        """Of a block of the KV cache, for all layers; 0 for a model without one."""


class Executor(Protocol):
    """Runs steps of one model. It owns the weights and the KV cache."""

    @property
    def sizes(self) -> Sizes: ...

    @property
    def runs_ahead(self) -> bool:
        """Whether a step may be begun while the tokens of the one before it are still unknown to the host."""

    def sampler(self, options: SamplerOptions, seed: int) -> Sampler: ...

    def cross_attention(self, request: Request, sequence: Sequence, heads: SequenceOf[tuple[int, int]]) -> Logits:
        """What the tokens of `sequence` look at in the request's source: float32 [heads, tokens, positions].

        `heads` are (layer, head). The sequence has blocks for all its tokens; they are computed once more.
        """

    def run(self, plan: StepPlan, draws: SequenceOf[Draw] = ()) -> StepResult:
        """Begins a step: the plan's block copies, its chunks, then the draws.

        Of the source that is to be encoded, some or all is; it says of itself whether it is done.
        """
