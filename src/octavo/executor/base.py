"""What an engine needs of an executor, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from octavo.request import StepPlan

Logits = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(slots=True)
class StepResult:
    """Logits of a step: float32 [rows, vocabulary], valid until the next step.

    `rows[i]` is the range of rows of the plan's i-th chunk: its last token's if the chunk reaches the newest token, all
    its tokens' if the request wants prompt logits, none otherwise.
    """

    logits: Logits
    rows: list[range]


class Footprint(Protocol):
    """What an executor takes for a graph besides its weights."""

    def workspace_bytes(self, bytes_per_value: int, max_tokens: int, max_logit_rows: int) -> int: ...

    def kv_bytes_per_token(self, bytes_per_value: int) -> int: ...


class Executor(Protocol):
    """Runs steps of one model. It owns the weights and the KV cache."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def block_size(self) -> int: ...

    @property
    def max_logit_rows(self) -> int: ...

    def run(self, plan: StepPlan) -> StepResult: ...
