"""The torch executor: runs a graph through PyTorch on a CUDA device, or, for tests and comparison, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from octavo.errors import UnsupportedError
from octavo.executor.base import Draw, Encode, Encoded, Logits, Sizes, Step, Wanted
from octavo.executor.torch import ops
from octavo.executor.torch.cuda_graphs import DecodeGraphs
from octavo.executor.torch.forms import choose_forms
from octavo.executor.torch.interpreter import Interpreter
from octavo.executor.torch.memory import TorchMemory
from octavo.executor.torch.nodes import Device, backends_of
from octavo.executor.torch.products import Products
from octavo.executor.torch.program import compile_graph, scratch_bytes
from octavo.executor.torch.sampling import Drawn, DrawRow, draw
from octavo.executor.torch.step import Layout, TokenTable, lay_out, make_encoder_step, make_step, to_device
from octavo.executor.torch.weights import DTYPES, Weights
from octavo.graph.builder import Graph
from octavo.graph.cache import FixedState, LayerCache
from octavo.graph.ops.attention import Attention
from octavo.sampling.options import SamplerOptions
from octavo.sampling.rules.tokens import Penalties
from octavo.weights.tensor import StoredTensor


@dataclass
class TorchStepResult:
    """A step that has been given to the device. Reading its logits or tokens waits for it."""

    device_logits: Tensor  # float32 [rows, vocabulary], or hidden states
    drawn: Drawn | None
    encoded: Encoded | None

    @cached_property
    def logits(self) -> Logits:
        found: Logits = self.device_logits.cpu().numpy()
        return found

    @property
    def hidden_states(self) -> Logits:
        return self.logits

    @property
    def sampled(self) -> Drawn:
        assert self.drawn is not None, "the step had no draws"
        return self.drawn


class TorchExecutor:
    """Takes what NativeExecutor takes, and a device; `kernels` replaces the functions of `ops` that suit it.

    `quantization` is what weights are quantized to. With `enforce_eager`, decode steps are not captured as CUDA graphs;
    nor are those of a model with an encoder.
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
        quantization: str | None = None,
        enforce_eager: bool = False,
        kernels: ModuleType | None = None,
    ):
        self.sizes, self.runs_ahead, self.output = sizes, True, graph.output
        self.device = torch.device(device)
        program, *more = (
            compile_graph(part, choose_forms(part, tensors, quantization)) for part in (graph, encoder) if part
        )
        attentions = [node for node in graph.nodes if isinstance(node, Attention)]
        is_paged = any(
            node.k is None or node.softcap or node.slopes or node.biases or node.sinks for node in attentions
        )
        windows = [layer.window for layer in program.layers if layer.window is not None]
        self._longest_fresh = 0 if is_paged else min(windows, default=sizes.max_model_len)
        self.table = TokenTable(sizes.max_num_seqs, sizes.max_model_len, self.device)
        self.pages = [self._empty_pages(layer, DTYPES[dtype]) for layer in program.layers]
        self.groups = [sizes.group_of(layer) for layer in program.layers]
        self.states = {
            number: torch.zeros(sizes.max_num_seqs + sizes.num_snapshots + 1, *layer.shape, device=self.device)
            for number, layer in graph.layers.items()
            if isinstance(layer, FixedState)
        }
        self.memory = TorchMemory(sizes, self.device, self.pages, self.groups, self.states)
        self.kernels = kernels or _kernels_of(self.device)
        forms = {name: form for one in (program, *more) for name, form in one.forms.items()}
        on_device = Device(
            Weights(tensors, self.device, DTYPES[dtype], release, forms),
            self.kernels,
            Products(self.kernels, torch.empty(scratch_bytes(forms), dtype=torch.uint8, device=self.device)),
            self.pages,
            self.groups,
            self.table.tokens.view(-1),
            sizes.max_model_len,
            self.table.width,
            self.states,
            backends_of(self.device),
        )
        self.interpreter = Interpreter(program, on_device)
        self._encoder = Interpreter(more[0], on_device) if more else None
        self.graphs: DecodeGraphs | None = None
        self.load_seconds: dict[str, float] = {}  # how long each part of getting ready took
        with torch.inference_mode():
            self._take_time("weights", self._load)
            self._take_time("kernels", self._warm_up)
            if self.device.type == "cuda" and not enforce_eager and encoder is None and self.output == "logits":
                self._take_time("CUDA graphs", self._capture)

    def reset(self) -> None:
        self.table.clear()

    def give_back(self) -> None:
        reason = "the torch executor keeps its KV cache while its weights are loaded; level 2 gives back both"
        raise UnsupportedError("level", 1, reason)

    @torch.inference_mode()
    def run(self, step: Step) -> TorchStepResult:
        """Gives a step to the device, and does not wait for it."""
        step.check_supported(self.output)
        self._copy_states(self.table.change(step.forks, step.ended))
        first = len(self.table.tokens)  # of the rows of states that are snapshots
        self._copy_states([(first + snapshot, self.table.row_of(sequence)) for snapshot, sequence in step.loads])
        self._copy_pages(step.copies.tolist())
        encoded = None
        if step.encode is not None:
            assert self._encoder is not None
            self._encoder.encode(make_encoder_step(step.encode, self.sizes.block_size, self.device))
            encoded = Encoded(1, is_finished=True)
        if not len(step.tokens):
            return TorchStepResult(torch.empty(0, self.sizes.vocab_size), None, encoded)
        layout = self._lay_out(step)
        asked = _draw_rows(step, layout)
        self._upload_tokens(step, layout, asked)
        if self.graphs is not None and layout.is_decode and len(step.sequences) <= self.graphs.largest:
            hidden = self.graphs.replay(layout)
        else:
            hidden = self.interpreter.hidden(make_step(layout, self.device))
        ends = zip(layout.table_rows.tolist(), (step.starts + step.counts).tolist(), step.saves.tolist(), strict=False)
        self._copy_states([(row, first + snapshot) for row, end, (tokens, snapshot) in ends if tokens == end])
        if len(step.wanted.rows) < len(hidden):
            hidden = hidden[to_device(step.wanted.rows, torch.int64, self.device)]
        logits = self.interpreter.logits(hidden)
        return TorchStepResult(logits, self._draw(step, asked, logits) if asked else None, encoded)

    @torch.inference_mode()
    def cross_attention(self, step: Step, heads: Sequence[tuple[int, int]]) -> Logits:
        assert step.source_lengths is not None
        found = []
        for part in step.parts(self.sizes.max_num_batched_tokens):
            layout = self._lay_out(part)
            self._upload_tokens(part, layout, [])
            device_step = make_step(layout, self.device)
            found.append(self.interpreter.cross_weights(device_step, heads, int(step.source_lengths[0])))
        weights: Logits = torch.cat(found, dim=1).cpu().numpy()
        return weights

    def _lay_out(self, step: Step) -> Layout:
        return lay_out(step, self.table, self.sizes, self._longest_fresh)

    def _copy_pages(self, copies: list[list[int]]) -> None:
        for source, target in copies:
            number, group = max((i, group) for i, group in enumerate(self.sizes.groups) if group.first <= source)
            for of, layer in zip(self.groups, self.pages, strict=True):
                for pages in layer if of == number else ():
                    pages[target - group.first] = pages[source - group.first]

    def _copy_states(self, rows: Sequence[tuple[int, int]]) -> None:
        """(from, to): all that is read is read before anything is written."""
        if rows and self.states:
            sources, targets = to_device(np.array(rows).T, torch.int64, self.device)
            for state in self.states.values():
                state[targets] = state[sources]

    def _empty_pages(self, layer: LayerCache, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        shape = (self.sizes.groups[self.sizes.group_of(layer)].count, layer.kv_heads, self.sizes.block_size)
        keys, values = (
            torch.zeros((*shape, width), dtype=dtype, device=self.device) for width in (layer.key_dim, layer.value_dim)
        )
        return keys, values

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
        for interpreter in (self.interpreter, self._encoder):
            if interpreter is not None and self.kernels is not ops:
                interpreter.warm_up()
        source_tables = source_lengths = None
        if self._encoder is not None:
            features = self._encoder.program.ops[0].outputs[0]
            positions = self.sizes.source_positions
            shape = (positions * features.rows_per_token, features.columns)
            blocks = np.arange(-(-positions // self.sizes.block_size), dtype=np.int32)
            self.run(Step(encode=Encode(0, np.zeros(shape, np.float32), blocks, positions)))
            source_tables, source_lengths = blocks[None], np.array([positions], np.int32)
        zeros, ones = np.zeros(2, np.int32), np.ones(1, np.int32)
        options = SamplerOptions(vocab_size=self.sizes.vocab_size, top_p=0.5, rules=[Penalties(presence=0.5)])
        is_drawn = self.output == "logits"
        self.run(
            Step(
                sequences=(0,),
                tokens=zeros,
                starts=zeros[:1],
                counts=2 * ones,
                block_tables=np.array([[group.first for group in self.sizes.groups]], np.int32),
                source_tables=source_tables,
                source_lengths=source_lengths,
                wanted=Wanted(**{self.output: ones}),
                draws=(Draw(0, 0, options, seed=0, num_output=0, accepted=()),) if is_drawn else (),
            )
        )
        self.reset()

    def _capture(self) -> None:
        width = -(-self.sizes.max_model_len // self.sizes.block_size)
        self.graphs = DecodeGraphs(
            self.interpreter.hidden, self.sizes.max_num_seqs, len(self.sizes.windows), width, self.device
        )

    def _upload_tokens(self, step: Step, layout: Layout, asked: list[DrawRow]) -> None:
        """Brings the tokens of a step, and what the rules of its draws look at before them, to the token table.

        At the beginning of a sequence's output the table may lack tokens whose keys the prefix cache had.
        """
        known = step.tokens >= 0
        places, tokens = layout.rows[0][known].tolist(), step.tokens[known].tolist()
        for one, row in zip(step.draws, asked, strict=True):
            if len(one.accepted) == one.num_output:
                first, prompt = row.table_row * self.table.width, one.options.prompt_token_ids
                history = [*enumerate(prompt), *enumerate(one.accepted, row.num_prompt)]
                places += [first + position for position, token in history if token >= 0]
                tokens += [token for _, token in history if token >= 0]
        if places:
            both = to_device([places, tokens], torch.int64, self.device)
            self.table.tokens.view(-1)[both[0]] = both[1].int()

    def _draw(self, step: Step, asked: list[DrawRow], logits: Tensor) -> Drawn:
        """Draws, and writes what the sequences of the step go on with into the token table."""
        masks = None if step.masks is None else step.masks.result()
        drawn = draw(logits, asked, self.table.tokens, self.kernels, masks)
        computed = set(step.sequences)  # others begin with a token that the host gives them
        places = [
            (row.table_row * self.table.width + row.num_tokens, number)
            for number, (one, row) in enumerate(zip(step.draws, asked, strict=True))
            if one.sequence in computed
        ]
        where, which = to_device(np.array(places).reshape(-1, 2).T, torch.int64, self.device)
        # Where no token was possible the request fails; until the host knows, any token will do.
        self.table.tokens.view(-1)[where] = drawn.device_tokens[which].clamp(min=0).int()
        return drawn


def _draw_rows(step: Step, layout: Layout) -> list[DrawRow]:
    """The draws, with where in the token table the tokens are that precede what they draw."""
    rows = step.wanted.logits[[one.row for one in step.draws]]
    owners = np.searchsorted(np.cumsum(step.counts), rows, side="right")
    ends = layout.rows[1][rows] + 1
    table_rows = layout.table_rows[owners]
    return [
        DrawRow(one.options, one.seed, one.row, row, end - one.num_output, end, one.mask)
        for one, row, end in zip(step.draws, table_rows.tolist(), ends.tolist(), strict=True)
    ]


def _kernels_of(device: torch.device) -> ModuleType:
    if device.type == "cpu":
        return ops
    from octavo.executor.torch import kernels

    return kernels
