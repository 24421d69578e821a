"""The torch executor: runs a graph through PyTorch on a CUDA device, or, for tests and comparison, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from octavo.errors import UnsupportedError
from octavo.executor.base import Draw, Logits, Sizes
from octavo.executor.torch import ops
from octavo.executor.torch.cuda_graphs import DecodeGraphs
from octavo.executor.torch.interpreter import Interpreter
from octavo.executor.torch.nodes import Device, backends_of
from octavo.executor.torch.program import compile_graph
from octavo.executor.torch.sampling import Drawn, DrawRow, TorchSampler, draw
from octavo.executor.torch.step import TokenTable, lay_out, make_encoder_step, make_step, to_device
from octavo.executor.torch.weights import DTYPES, Weights
from octavo.graph.builder import Graph
from octavo.graph.ops.attention import Attention
from octavo.request import Chunk, Request, Sequence, Source, StepPlan, chunks_of
from octavo.sampling.options import SamplerOptions
from octavo.sampling.rules.tokens import Penalties
from octavo.sampling_params import SamplingParams
from octavo.weights.tensor import StoredTensor


@dataclass
class TorchStepResult:
    """A step that has been given to the device. Reading its logits or tokens waits for it."""

    rows: list[range]
    device_logits: Tensor  # float32 [rows, vocabulary]
    drawn: Drawn | None

    @cached_property
    def logits(self) -> Logits:
        found: Logits = self.device_logits.cpu().numpy()
        return found

    @property
    def sampled(self) -> Drawn:
        assert self.drawn is not None, "the step had no draws"
        return self.drawn


class TorchExecutor:
    """Takes what NativeExecutor takes, and a device; `kernels` replaces the functions of `ops` that suit it.

    With `enforce_eager`, decode steps are not captured as CUDA graphs; nor are those of a model with an encoder.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, StoredTensor],
        sizes: Sizes,
        *,
        dtype: str,
        device: str = "cpu",
        encoder: Graph | None = None,
        release: Callable[[str], None] = lambda name: None,
        enforce_eager: bool = False,
        kernels: ModuleType | None = None,
    ):
        self.sizes, self.runs_ahead = sizes, True
        self.device = torch.device(device)
        program = compile_graph(graph)
        shares = any(isinstance(node, Attention) and node.k is None for node in graph.nodes)
        windows = [layer.window for layer in program.layers if layer.window is not None]
        self._longest_fresh = 0 if shares else min(windows, default=sizes.max_model_len)
        self.table = TokenTable(sizes.max_num_seqs, sizes.max_model_len, self.device)
        self.pages = [
            tuple(
                torch.zeros(
                    (sizes.num_blocks, layer.kv_heads, sizes.block_size, width),
                    dtype=DTYPES[dtype],
                    device=self.device,
                )
                for width in (layer.key_dim, layer.value_dim)
            )
            for layer in program.layers
        ]
        self.kernels = kernels or _kernels_of(self.device)
        if self.kernels is not ops and any(layer.key_dim != layer.value_dim for layer in program.layers):
            raise UnsupportedError("device", str(device), "heads of keys and values differ in their width")
        on_device = Device(
            Weights(tensors, self.device, DTYPES[dtype], release),
            self.kernels,
            [(keys, values) for keys, values in self.pages],
            self.table.tokens.view(-1),
            sizes.max_model_len,
            backends_of(self.device),
        )
        self.interpreter = Interpreter(program, on_device)
        self._encoder = None if encoder is None else Interpreter(compile_graph(encoder), on_device)
        self.graphs: DecodeGraphs | None = None
        self.load_seconds: dict[str, float] = {}  # how long each part of getting ready took
        with torch.inference_mode():
            self._take_time("weights", self._load)
            self._take_time("kernels", self._warm_up)
            if self.device.type == "cuda" and not enforce_eager and encoder is None:
                self._take_time("CUDA graphs", self._capture)

    def sampler(self, options: SamplerOptions, seed: int) -> TorchSampler:
        return TorchSampler(options, seed)

    @torch.inference_mode()
    def run(self, plan: StepPlan, draws: SequenceOf[Draw] = ()) -> TorchStepResult:
        """Gives a step to the device, and does not wait for it."""
        for source, target in plan.copies:
            for pages in (one for layer in self.pages for one in layer):
                pages[target] = pages[source]
        if plan.encode is not None and plan.encode.source is not None:
            assert self._encoder is not None
            self._encoder.encode(make_encoder_step(plan.encode.source, self.sizes.block_size, self.device))
            plan.encode.source.is_encoded = True
        if not plan.chunks:
            return TorchStepResult([], torch.empty(0, self.sizes.vocab_size), None)
        self._upload_tokens(plan.chunks)
        layout = lay_out(plan, self.table, self.sizes.block_size, self._longest_fresh)
        wanted, rows = plan.logit_rows()
        if self.graphs is not None and layout.is_decode and len(plan.chunks) <= self.graphs.largest:
            hidden = self.graphs.replay(layout)
        else:
            hidden = self.interpreter.hidden(make_step(layout, self.device))
        if len(wanted) < len(hidden):
            hidden = hidden[to_device(wanted, torch.int64, self.device)]
        logits = self.interpreter.logits(hidden)
        return TorchStepResult(rows, logits, self._draw(plan, rows, draws, logits))

    @torch.inference_mode()
    def cross_attention(self, request: Request, sequence: Sequence, heads: SequenceOf[tuple[int, int]]) -> Logits:
        assert request.source is not None
        found = []
        for chunk in chunks_of(request, sequence, self.sizes.max_num_batched_tokens):
            self._upload_tokens([chunk])
            layout = lay_out(StepPlan([chunk]), self.table, self.sizes.block_size, self._longest_fresh)
            step = make_step(layout, self.device)
            found.append(self.interpreter.cross_weights(step, heads, request.source.num_positions))
        weights: Logits = torch.cat(found, dim=1).cpu().numpy()
        return weights

    def _take_time(self, what: str, work: Callable[[], None]) -> None:
        begin = time.monotonic()
        work()
        self.load_seconds[what] = time.monotonic() - begin

    def _load(self) -> None:
        self.interpreter.load()
        if self._encoder is not None:
            self._encoder.load()

    def _warm_up(self) -> None:
        """Runs a small step, so that no request has to wait for kernels to be compiled."""
        sequence = Sequence(0, [0, 0], 2, blocks=[0])
        request = Request("warm-up", [0, 0], SamplingParams(), sequences=[sequence])
        if self._encoder is not None:
            features = self._encoder.program.ops[0].outputs[0]
            positions = self.sizes.source_positions
            shape = (positions * features.rows_per_token, features.columns)
            source = request.source = Source(np.zeros(shape, np.float32), positions)
            source.place.blocks = list(range(-(-positions // self.sizes.block_size)))
            self.run(StepPlan([], encode=request))
        options = SamplerOptions(vocab_size=self.sizes.vocab_size, top_p=0.5, rules=[Penalties(presence=0.5)])
        self.run(StepPlan([Chunk(request, sequence, 0, 2)]), [Draw(0, self.sampler(options, seed=0))])

    def _capture(self) -> None:
        width = -(-self.sizes.max_model_len // self.sizes.block_size)
        self.graphs = DecodeGraphs(self.interpreter.hidden, self.sizes.max_num_seqs, width, self.device)

    def _upload_tokens(self, chunks: list[Chunk]) -> None:
        places: list[int] = []
        tokens: list[int] = []
        for chunk in chunks:
            first, lacking = self.table.lacking(chunk)
            places += range(first, first + len(lacking))
            tokens += lacking
        if places:
            both = to_device([places, tokens], torch.int64, self.device)
            self.table.tokens.view(-1)[both[0]] = both[1].int()

    def _draw(self, plan: StepPlan, rows: list[range], draws: SequenceOf[Draw], logits: Tensor) -> Drawn | None:
        """Draws, and writes what the sequences of the step go on with into the token table."""
        if not draws:
            return None
        asked: list[DrawRow] = []
        places: dict[int, tuple[int, int]] = {}  # chunk -> where its sequence's next token goes, which draw it is
        for number, one in enumerate(draws):
            chunk = plan.chunks[one.chunk]
            assert isinstance(one.sampler, TorchSampler)
            row, prompt = self.table.row_of(chunk.sequence), chunk.sequence.num_prompt_tokens
            asked.append(DrawRow(one.sampler, rows[one.chunk][-1], row, prompt, chunk.start + chunk.count))
            if one.chunk not in places:
                places[one.chunk] = (self.table.place_of_next(chunk), number)
        drawn = draw(logits, asked, self.table.tokens, self.kernels)
        where, which = to_device([list(pair) for pair in zip(*places.values(), strict=True)], torch.int64, self.device)
        # Where no token was possible the request fails; until the host knows, any token will do.
        self.table.tokens.view(-1)[where] = drawn.device_tokens[which].clamp(min=0).int()
        return drawn


def _kernels_of(device: torch.device) -> ModuleType:
    if device.type == "cpu":
        return ops
    from octavo.executor.torch import kernels

    return kernels
