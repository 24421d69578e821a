"""The types that cross layers: a request on its way in, a plan and a result per step, an output on its way out."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import count as counter
from typing import TYPE_CHECKING, Any

from octavo.errors import OctavoError, PromptError, PromptTooLongError

if TYPE_CHECKING:
    import numpy as np

    from octavo.sampling.options import SamplerOptions
    from octavo.sampling_params import SamplingParams
    from octavo.structured.compiler import CompiledGrammar
    from octavo.structured.constraint import Constraint


TokenIds = SequenceOf[int]
BACKGROUND = 1 << 40  # added to the priority of a request that is behind all others under any policy
UNKNOWN_TOKEN = -1  # stands for a token that has been drawn, but has not been read yet
_ids = counter()


class Status(enum.Enum):
    """Where a request stands. It reaches FINISHED once, and stays there."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class BlockTable:
    """The blocks of a sequence, in the order of its tokens, for a group of layers.

    The first `num_passed`, which these layers' window has passed, have been given back.
    """

    blocks: list[int] = field(default_factory=list)
    num_passed: int = 0

    @property
    def held(self) -> list[int]:
        """Those that it has."""
        return self.blocks[self.num_passed :]

    def name_first(self) -> None:
        """Puts the first block that it has in place of those that were given back: any that there is would do."""
        if self.num_passed:
            self.blocks[: self.num_passed] = self.blocks[self.num_passed :][:1] * self.num_passed


@dataclass(slots=True, eq=False)
class Sequence:
    """One line of tokens and its share of the KV cache: a prompt and one sample, or one beam, that continues it."""

    index: int
    tokens: list[int]  # prompt, then what was generated
    num_prompt_tokens: int
    tables: list[BlockTable] = field(default_factory=list)  # of each group of layers; the block manager writes them
    num_computed: int = 0  # leading tokens whose keys and values are in the cache; the block manager counts
    digests: list[bytes] = field(default_factory=list)  # prefix cache keys of its leading full blocks
    snapshot: int | None = None  # the number of the kept state that it begins with, until it has begun
    branch: int = 0  # so many tokens others began with, too, without a state being kept there
    passing: bytes | None = None  # the digest of its newest kept state, if that is of use until the next one
    options: SamplerOptions | None = None  # how its tokens are drawn, if they are
    seed: int = 0
    constraint: Constraint | None = None  # which tokens may come next, if not all
    num_told: int = 0  # leading tokens that the executor knows of for its draws
    finished: bool = False
    id: int = field(default_factory=_ids.__next__)  # among all of this process

    @property
    def blocks(self) -> list[int]:
        """Its table of the first group of layers."""
        return self.tables[0].blocks if self.tables else []

    @property
    def num_pending(self) -> int:
        """Tokens that the model has not seen yet: 1 while decoding, more while prefilling."""
        return len(self.tokens) - self.num_computed

    @property
    def output_tokens(self) -> list[int]:
        return self.tokens[self.num_prompt_tokens :]

    def append(self, token: int) -> None:
        """Adds the next token, or says which it is where UNKNOWN_TOKEN stands for it."""
        if self.tokens[-1] == UNKNOWN_TOKEN:
            self.tokens[-1] = token
        else:
            self.tokens.append(token)


@dataclass(slots=True, eq=False)
class Source:
    """What a request's tokens look at besides each other, such as 30 s of sound. It is encoded before them.

    `place` is its share of the KV cache: it has a table of blocks like a sequence, and as many tokens as positions.
    `digest` is SHA-256 of everything that the encoder's output follows from.
    """

    features: np.ndarray[Any, np.dtype[np.float32]]  # [rows, columns]: what the encoder reads
    num_positions: int
    digest: bytes = field(init=False)
    place: Sequence = field(init=False)
    num_slices_done: int = 0  # parts of the encoder that have been run over it
    is_encoded: bool = False

    def __post_init__(self) -> None:
        self.digest = sha256(
            repr((self.features.shape, self.num_positions)).encode() + self.features.tobytes()
        ).digest()
        self.place = Sequence(0, [], self.num_positions)

    @property
    def id(self) -> int:
        return self.place.id


@dataclass(frozen=True, slots=True)
class CacheScope:
    """What decides the keys and values of a token besides the tokens up to it: requests of one scope share prefixes.

    It is made of contents alone. An object's identity can come again for another object.
    """

    salt: str = ""  # of the user's choice
    source: bytes = b""  # digest of what the tokens look at besides each other, if there is that

    @property
    def digest(self) -> bytes:
        # Salts come from JSON, which can hold lone surrogates.
        return sha256(sha256(self.salt.encode("utf-8", "surrogatepass")).digest() + self.source).digest()


class Prompt:
    """A prompt as text, where it came as text, and as its parts: token ids, and a source for models that encode one.

    Where it is a pair of texts, the second begins with token `second_start`; else that is 0. `job` makes the job that
    serves it, see `octavo.engine.job`; None is for texts. What is generated fits the `grammar`, if there is one. Raises
    PromptError for two sources.
    """

    def __init__(
        self,
        text: str | None,
        *parts: TokenIds | Source,
        cache_salt: str = "",
        job: Callable[..., Any] | None = None,
        second_start: int = 0,
        grammar: CompiledGrammar | None = None,
    ):
        self.text, self.parts, self.cache_salt, self.job = text, parts, cache_salt, job
        self.second_start, self.grammar = second_start, grammar
        sources = [part for part in parts if isinstance(part, Source)]
        if len(sources) > 1:
            raise PromptError(f"the prompt has {len(sources)} sources; models that encode one take one with a prompt")
        self.source = sources[0] if sources else None

    @cached_property
    def token_ids(self) -> list[int]:
        """Those of all parts."""
        return [token for part in self.parts if not isinstance(part, Source) for token in part]

    @cached_property
    def scope(self) -> CacheScope:
        """The prompts that it shares cached prefixes with."""
        return CacheScope(self.cache_salt, b"" if self.source is None else self.source.digest)

    def last(self, count: int) -> Prompt:
        """The last tokens of a text. Raises PromptError for what else a prompt may be."""
        if self.source is not None or self.second_start:
            raise PromptError("truncate_prompt_tokens: only texts can be cut")
        return Prompt(
            self.text, self.token_ids[-count:], cache_salt=self.cache_salt, job=self.job, grammar=self.grammar
        )

    def extended(
        self, *parts: TokenIds | Source, cache_salt: str | None = None, grammar: CompiledGrammar | None = None
    ) -> Prompt:
        """The same prompt with more parts behind its own, another salt, or another grammar."""
        return Prompt(
            self.text,
            *self.parts,
            *parts,
            cache_salt=cache_salt or self.cache_salt,
            job=self.job,
            second_start=self.second_start,
            grammar=grammar or self.grammar,
        )


@dataclass(slots=True, eq=False)
class Request:
    """A prompt and what to do with it, as the scheduler sees it."""

    id: str
    prompt: Prompt
    params: SamplingParams
    priority: int = 0  # smaller is served first, as in vLLM
    arrival: float = field(default_factory=time.monotonic)
    max_sequences: int = 1  # seats it takes while it runs: `n`, or the width of its beam
    lockstep: bool = False  # all sequences decode in the same step (beam search)
    needs_all_rows: bool = False  # the output of every prompt position is wanted: no cached prefix is used
    is_drawn: bool = True  # tokens are drawn; else it ends with its prompt
    status: Status = Status.WAITING
    sequences: list[Sequence] = field(default_factory=list)  # the unfinished ones
    siblings: list[Sequence] = field(default_factory=list)  # that will begin where the first one's prompt ends
    num_cached_tokens: int | None = None  # prompt tokens found in the prefix cache at first admission
    num_preemptions: int = 0

    def __post_init__(self) -> None:
        if not self.sequences:
            tokens = list(self.prompt.token_ids)
            self.sequences = [Sequence(0, tokens, len(tokens))]


def check_length(num_tokens: int, max_model_len: int, room: int = 1) -> None:
    """Raises PromptError if a prompt is empty, PromptTooLongError if it leaves no `room` for an answer."""
    if not num_tokens:
        raise PromptError("the prompt is empty; it must have at least one token")
    if num_tokens + room > max_model_len:
        raise PromptTooLongError(num_tokens, max_model_len, room)


@dataclass(slots=True)
class Chunk:
    """One sequence's share of a step: tokens [start, start + count) are computed.

    `is_last` says whether the chunk reaches the newest token, so that the next one is drawn; `num_logit_rows`, of how
    many of its tokens, the last ones, the output is wanted: all if the request needs all rows.
    """

    request: Request
    sequence: Sequence
    start: int
    count: int
    is_last: bool = field(init=False)
    num_logit_rows: int = field(init=False)
    kept: tuple[int, int] | None = None  # after how many of the sequence's tokens its state is kept, its number then

    def __post_init__(self) -> None:
        self.is_last = self.start + self.count == len(self.sequence.tokens)
        self.num_logit_rows = self.count if self.request.needs_all_rows else int(self.is_last)


@dataclass(slots=True)
class StepPlan:
    """What one step computes. `copies` are (source, target) blocks to copy before anything is written.

    `encode` is a source that is encoded, or a part of it; `forks` are ids (from, to) of sequences that have forked,
    `ended` those of sequences and sources that have ended,
    or lost their blocks, since the last step.
    """

    chunks: list[Chunk]
    encode: Source | None = None
    copies: list[tuple[int, int]] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)
    forks: tuple[tuple[int, int], ...] = ()
    ended: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(chunk.count for chunk in self.chunks)

    def logit_rows(self) -> tuple[list[int], list[range]]:
        """The step's rows (a token each, chunk by chunk) whose logits are wanted; each chunk's range among these."""
        wanted: list[int] = []
        ranges = []
        end = 0
        for chunk in self.chunks:
            end += chunk.count
            count = chunk.num_logit_rows
            ranges.append(range(len(wanted), len(wanted) + count))
            wanted += range(end - count, end)
        return wanted, ranges


@dataclass(slots=True)
class Logprob:
    """Log-probability of one token, its rank among all tokens (1 is the likeliest) and its text."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


LogprobsAtPosition = dict[int, Logprob]


@dataclass(slots=True)
class CompletionOutput:
    """One completion of a prompt. `finish_reason` is "stop", "length", "abort" or "error", None while it runs.

    `stop_reason` is the stop string or the stop token id that ended it; None for the end-of-sequence token.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[LogprobsAtPosition] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestMetrics:
    """Times of a request in seconds of `time.monotonic()`."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    finished_time: float | None = None


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    """A vector of a text, float32 [dimensions], or one of each token, [tokens, dimensions]; or scores, one a label."""

    data: np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """A vector of a text."""

    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        return len(self.embedding)


@dataclass(frozen=True, slots=True)
class PoolingRequestOutput:
    """What became of a text that was given to `LLM.encode`. `error` says why there is nothing in `outputs`."""

    request_id: str
    outputs: PoolingOutput
    prompt_token_ids: list[int]
    num_cached_tokens: int
    finished: bool
    error: OctavoError | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """What became of a text that was given to `LLM.embed`; see `PoolingRequestOutput`."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: list[int]
    num_cached_tokens: int
    finished: bool
    error: OctavoError | None = None


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """The scores of a text's labels: probabilities, unless that was not wanted."""

    probs: list[float]

    @property
    def num_classes(self) -> int:
        return len(self.probs)


@dataclass(frozen=True, slots=True)
class ClassificationRequestOutput:
    """What became of a text that was given to `LLM.classify`; see `PoolingRequestOutput`."""

    request_id: str
    outputs: ClassificationOutput
    prompt_token_ids: list[int]
    num_cached_tokens: int
    finished: bool
    error: OctavoError | None = None


@dataclass(frozen=True, slots=True)
class ScoringOutput:
    """How alike two texts are."""

    score: float


@dataclass(frozen=True, slots=True)
class ScoringRequestOutput:
    """What became of a pair that was given to `LLM.score`; see `PoolingRequestOutput`."""

    request_id: str
    outputs: ScoringOutput
    prompt_token_ids: list[int]
    num_cached_tokens: int
    finished: bool
    error: OctavoError | None = None


@dataclass(slots=True)
class RequestOutput:
    """What a request has produced so far. `error` says why it failed, if it did."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[LogprobsAtPosition | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics | None = None
    num_cached_tokens: int | None = None
    error: OctavoError | None = None
    details: Any = None  # what the kind of job tells besides, such as a SpeechOutput of a window of speech
