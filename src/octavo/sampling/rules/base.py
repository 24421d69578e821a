"""What a rule on logits is: fields, a reference in numpy, and a function for many rows at once on a torch device.

Those of this package have a native form, which is registered under their name in `native/ops/` and gets their fields as
they are. Those of plugins need none: the native executor calls their references.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from octavo.errors import ParameterError, RequestError
from octavo.sampling_params import SamplingParams, known_extra_args

if TYPE_CHECKING:
    from torch import Tensor

Logits = npt.NDArray[np.float32]


class Stage(enum.IntEnum):
    """The order of rules, which is vLLM's. Rules of one stage give the same logits in any order."""

    BIAS = 0
    BAN = 1
    PROCESSOR = 2  # what users give as functions and classes
    PENALTY = 3
    COMPARISON = 4  # of logits with each other, after all that changes them
    INVARIANT = 5  # what leaves the likeliest token the likeliest


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRequest:
    """What rules are made of."""

    params: SamplingParams
    vocab_size: int
    prompt_token_ids: Sequence[int]
    end_ids: Iterable[int] = ()  # the tokens that end the text
    bad_words: Sequence[Sequence[int]] = ()  # the tokens of `params.bad_words`

    def token_ids(self, name: str) -> list[int]:
        """The tokens of a parameter. Raises `ParameterError` where they are not in the vocabulary."""
        ids = list(getattr(self.params, name) or ())
        for token in ids:
            if token >= self.vocab_size:
                raise ParameterError(name, token, f"token ids below {self.vocab_size}, the size of the vocabulary")
        return ids


@dataclass(frozen=True)
class Batch:
    """Rows of logits on a device, one for each of some rules of a kind, and the tokens of their sequences.

    The host may not know a sequence's newest token yet: rules read tokens from `history`, and never wait for a value.
    """

    logits: Tensor  # float32 [all rows, vocabulary]
    rows: Sequence[int]  # of `logits`
    history: Tensor  # int32 [sequences, positions]
    sequences: Sequence[tuple[int, int, int]]  # for each row: its row of `history`, the prompt's length, the whole
    integers: Callable[[Any], Tensor]  # a copy on the device, int64
    numbers: Callable[[Any], Tensor]  # a copy on the device, float32
    kernels: ModuleType  # with the device's `penalise`

    @cached_property
    def device_rows(self) -> Tensor:
        return self.integers(self.rows)

    @cached_property
    def device_sequences(self) -> Tensor:
        """int64 [3, rows]"""
        return self.integers(np.array(self.sequences).T)

    def places(self, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The index of the tokens `ids[i]` of row `rows[i]`, for all i."""
        of_rows, of_ids = self.integers([np.repeat(rows, [len(each) for each in ids]), np.concatenate(ids)])
        return of_rows, of_ids


class Rule(ABC):
    """One thing that shapes the logits of a sequence. Its fields are numbers, token ids, and lists of these.

    `banning` are the parameters by which a request bans tokens; the first of them turns the rule on. `extra_args` are
    the names that it reads in the parameter `extra_args`.
    """

    prompt_token_ids: Sequence[int] = ()  # those that it looks at besides the output

    name: ClassVar[str]
    stage: ClassVar[Stage]
    banning: ClassVar[tuple[str, ...]]
    is_native: ClassVar[bool]

    def __init_subclass__(
        cls, *, name: str, stage: Stage, banning: tuple[str, ...] = (), extra_args: tuple[str, ...] = ()
    ):
        cls.name, cls.stage, cls.banning = name, stage, banning
        cls.is_native = cls.__module__.startswith(f"{__package__}.")
        known_extra_args.update(extra_args)

    @classmethod
    def of(cls, request: RuleRequest) -> Self | None:
        """The rule that the parameters ask for, if any. Raises `ParameterError` for what they must not be."""
        return None

    def applies(self, num_output: int) -> bool:
        """Whether it may change a logit after so many tokens of output."""
        return True

    def for_sequence(self, output: Sequence[int]) -> Self:
        """The rule for one sequence, whose tokens will be in `output`; one that keeps a state of it is a new one."""
        return self

    @property
    def failure(self) -> RequestError | None:
        """Why it failed, if it did; then it has left no token that can be drawn."""
        return None

    @abstractmethod
    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        """The reference: changes float32 [vocabulary] in place, after the tokens `output`."""

    @staticmethod
    def apply_batch(rules: Sequence[Any], batch: Batch) -> None:
        """Changes row i of the batch as `rules[i]` wants it, all of them of this class.

        Unless it is overridden, the references do that on the host, which waits for the device.
        """
        for rule, row, (sequence, prompt, length) in zip(rules, batch.rows, batch.sequences, strict=True):
            logits = batch.logits[row].cpu().numpy().copy()
            rule.apply(logits, batch.history[sequence, prompt:length].tolist())
            batch.logits[row] = batch.numbers(logits)

    def as_data(self) -> tuple[str, dict[str, Any]]:
        """The rule's name and fields, which is all that the native executor gets of it."""
        return self.name, {**vars(self)}
