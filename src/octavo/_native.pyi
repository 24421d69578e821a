"""
The native executor: weights, tape, sampling, spectrograms. Everything here releases the GIL while it computes.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


def available_isas() -> list[str]:
    """Instruction sets with kernels that run here, best first."""

def select_isa(isa: str) -> None: ...

def isa() -> str:
    """The instruction set in use."""

def pool_is_busy() -> bool:
    """Whether the threads are running a job, another engine's for example."""

def num_threads() -> int: ...

def set_num_threads(num_threads: int) -> None: ...

def dequantize(format: str, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], count: int) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]:
    """
    Decode `count` elements of a stored format ("Q4_K", …) from exactly their bytes into float32.
    """

class PackedMatrix:
    @property
    def n(self) -> int: ...

    @property
    def k(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

def pack(sources: Sequence[tuple[str, Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], int, int, Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None]], arrangement: str, layout: str) -> PackedMatrix:
    """
    Packs rows [(format, bytes, rows, columns, row order or None), ...] into a layout of the kernels.
    """

def packed_bytes(layout: str, rows: Sequence[int], columns: int) -> int:
    """Bytes of matrices that are packed into one."""

def page_bytes(dtype: str, layers: Sequence[tuple[int, int, int]], page_tokens: int) -> int:
    """
    Bytes of a page of the cache, for layers [(kv_heads, key_dim, value_dim), ...].
    """

def op_types() -> dict[str, tuple[list[str], str]]:
    """
    The ops that a tape may have: {name: (types of inputs, type of output)}; a type is float32, element or any.
    """

class Executor:
    def __init__(self, *, dtype: str, layers: Sequence[tuple[int, int, int]], page_tokens: int, num_pages: int, max_tokens: int, max_sequences: int, max_logit_rows: int, vocab_size: int, decoder: Executor | None = None) -> None:
        """
        `layers` of the cache are (kv_heads, key_dim, value_dim). With `decoder`, an encoder that leaves keys and values in that executor's cache.
        """

    def buffer(self, columns: int, floats: bool, logit_rows: bool = False, rows_per_token: int = 1) -> int: ...

    def add(self, name: str, inputs: Sequence[tuple[int, int, int]], outputs: Sequence[tuple[int, int, int]], matrices: Mapping[str, PackedMatrix], vectors: Mapping[str, Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]], params: Mapping[str, float | str | Sequence[float] | Sequence[Sequence[float]]]) -> None:
        """
        Adds an op to the tape. Inputs and outputs are columns of buffers: (buffer, first, count).
        """

    def set_logits(self, buffer: int) -> None: ...

    def run(self, tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], starts: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], counts: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], block_tables: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], logit_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], copies: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], source_tables: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, source_lengths: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, slots: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, first_op: int = 0, last_op: int = 1073741824) -> None:
        """
        Computes one step, or a part of it; its logits are then in logits(rows).
        """

    def copy_state(self, source: int, target: int) -> None:
        """
        Copies what is kept of the sequence in one slot, beside its pages, to another.
        """

    def encode(self, features: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], blocks: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], positions: int, ops: tuple[int, int], tokens: tuple[int, int]) -> None:
        """
        Runs a part of an encoder's tape over float32 features [rows, columns padded to 16].
        """

    def logits(self, rows: int) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None), writable=False)]:
        """
        The last step's logits, float32 [rows, vocab_size]: a view, valid until the next step.
        """

    def keys(self, layer: int, blocks: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], positions: int) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None, None))]:
        """
        The keys in blocks of the cache: float32 [kv_heads, positions, head_dim].
        """

    def read_row(self, buffer: int, row: int, columns: int) -> list[float]: ...

    def set_profiling(self, on: bool) -> None: ...

    def profile(self) -> list[tuple[str, float]]:
        """The name of each op of the tape, and the seconds that it took in all."""

    @property
    def workspace_bytes(self) -> int: ...

    @property
    def kv_bytes(self) -> int: ...

class SequenceSampler:
    """Options, rules, output and random stream of one sequence."""

    def __init__(self, options: Mapping[str, float | str | Sequence[float] | Sequence[Sequence[float]]], rules: Sequence[tuple[str, Mapping[str, float | str | Sequence[float] | Sequence[Sequence[float]]]]], seed: int) -> None:
        """
        `rules` are names and parameters, in order: see octavo.sampling.options.SamplerOptions.as_data.
        """

    def accept(self, token: int) -> None:
        """Appends a token to the output."""

    @property
    def num_output(self) -> int: ...

class SampleResult:
    """One entry per sampler; arrays are views into this object."""

    @property
    def tokens(self) -> Annotated[NDArray[numpy.int32], dict(writable=False)]:
        """
        int32 [n]; -1 where the row has NaN or infinity, -2 where the sampler bans every token
        """

    @property
    def logprobs(self) -> Annotated[NDArray[numpy.float32], dict(writable=False)]:
        """
        float32 [n], of the raw or, where the sampler says so, the adjusted logits; NaN where it has num_logprobs=-1
        """

    @property
    def ranks(self) -> Annotated[NDArray[numpy.int32], dict(writable=False)]:
        """int32 [n]; 1 is the likeliest, 0 where the sampler has num_logprobs=-1"""

    def top(self, i: int) -> tuple[Annotated[NDArray[numpy.int32], dict(writable=False)], Annotated[NDArray[numpy.float32], dict(writable=False)]]:
        """
        The likeliest tokens for sampler i, likeliest first: ids int32 [k], logprobs float32 [k]
        """

def sample(logits: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device='cpu', writable=False)], rows: Sequence[int], samplers: Sequence[SequenceSampler]) -> SampleResult:
    """
    Draws a token for each sampler from the row of logits [rows, vocab] named for it.
    """

class TopLogprobs:
    """One entry per row; arrays are views into this object."""

    @property
    def ids(self) -> Annotated[NDArray[numpy.int32], dict(writable=False)]:
        """
        int32 [rows, k], likeliest first; -1 where the row has NaN or infinity, or nothing more is possible
        """

    @property
    def logprobs(self) -> Annotated[NDArray[numpy.float32], dict(writable=False)]:
        """float32 [rows, k]; NaN where ids is -1"""

    @property
    def chosen(self) -> Annotated[NDArray[numpy.float32], dict(writable=False)]:
        """float32 [rows], logprob of the row's token"""

    @property
    def ranks(self) -> Annotated[NDArray[numpy.int32], dict(writable=False)]:
        """int32 [rows], rank of the row's token, 1 is the likeliest"""

def top_logprobs(logits: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device='cpu', writable=False)], k: int, token_ids: Sequence[int]) -> TopLogprobs:
    """
    The k likeliest tokens of each row, and how likely the row's token in token_ids is.
    """

def read_bandwidth(bytes: int) -> float:
    """Bytes per second that all threads read from memory."""

def matmul_flops(float32: bool) -> float:
    """FLOP/s of the matmul kernel on data in cache, all threads."""

def log_mel(samples: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], n_mels: int) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]:
    """
    Whisper's log-mel spectrogram, float32 [n_mels, samples / 160], of mono audio at 16 kHz: float32 [samples], finite, more than 200 of them. n_mels is 80 or 128.
    """

def mel_filter_bank(n_mels: int) -> Annotated[NDArray[numpy.float64], dict(shape=(None, None))]:
    """The filters of log_mel: float64 [n_mels, 201]."""
