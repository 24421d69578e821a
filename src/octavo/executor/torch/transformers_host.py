"""Runs a model of transformers: its own layers, over the step's flat rows, with attention over our pages.

transformers finds an attention function by its name in a model's configuration. Ours is "octavo": it stores the keys
and values that a layer has made of the step's tokens, and attends as our own models do. Rows of several sequences lie
side by side in a batch of one, told apart by their positions and by the step that the function looks at.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor, nn
from transformers.utils import logging

from octavo.errors import ModelLoadError
from octavo.executor.torch.nodes import NODES, Device, computes
from octavo.executor.torch.step import Step
from octavo.graph.hosted import Hosted, HostedLogits
from octavo.graph.ops.attention import Attention

ATTENTION = "octavo"  # what transformers calls our attention


class TransformersHost:
    """A model of the class `kind` in the directory `path`, and the attention of each of its layers."""

    def __init__(self, path: Path, kind: Any, config: Any, attentions: Mapping[int, Attention]):
        self.path, self.kind, self.config, self.attentions = path, kind, config, attentions
        self.model: Any = None

    def load(self, device: Device) -> None:
        """Raises ModelLoadError for a weight that is missing, misshapen or left over."""
        with quiet():
            self.model, info = self.kind.from_pretrained(
                self.path,
                config=self.config,
                dtype=device.dtype,
                attn_implementation=ATTENTION,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        for what, reason in (
            ("missing_keys", "is missing"),
            ("mismatched_keys", "has another shape than config.json says"),
            ("unexpected_keys", "is left over: no part of the model uses it"),
        ):
            if found := sorted(map(str, info[what])):
                raise ModelLoadError(self.path, found[0], reason)
        self.model.eval().to(device.weights.device)

    def hidden(self, device: Device, step: Step) -> Tensor:
        tokens = device.tokens[step.places].long()
        with _run(self, device, step):
            return hidden_of(self.model, tokens, step.positions)

    def logits(self, hidden: Tensor) -> Tensor:
        return logits_of(self.model, hidden)


def body_of(model: Any) -> tuple[str, nn.Module]:
    """All of a model but what makes logits, and what it is called there."""
    name, parts = model.base_model_prefix, dict(model.named_children())
    if name not in parts:
        name = next(name for name, part in parts.items() if isinstance(part, transformers.PreTrainedModel))
    return name, parts[name]


def hidden_of(model: Any, tokens: Tensor, positions: Tensor, **more: Any) -> Tensor:
    """The last hidden states [tokens, hidden]; the model has no cache of its own."""
    _, body = body_of(model)
    found = body(input_ids=tokens[None], position_ids=positions[None], use_cache=False, **more)
    states: Tensor = found.last_hidden_state[0]
    return states


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """float32 [rows, vocabulary]: what the model's own class makes of hidden states, its factors and caps included."""
    name, body = body_of(model)
    model._modules[name] = _Known(hidden[None])
    try:
        found: Tensor = model(input_ids=None, use_cache=False).logits[0]
        return found.float()
    finally:
        model._modules[name] = body


class _Known(nn.Module):
    """In the place of a model's layers: hidden states that are known already."""

    def __init__(self, hidden: Tensor):
        super().__init__()
        self.output = _Output(hidden)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


class _Output:
    """What the layers of any model return, of which there is one thing."""

    def __init__(self, hidden: Tensor):
        self.last_hidden_state = hidden

    def __getitem__(self, i: int) -> Tensor:
        return (self.last_hidden_state,)[i]

    def __getattr__(self, name: str) -> None:
        return None


_now = threading.local()


@contextmanager
def _run(host: TransformersHost, device: Device, step: Step) -> Iterator[None]:
    """What the attention function of this thread works on meanwhile."""
    _now.host, _now.device, _now.step = host, device, step
    try:
        yield
    finally:
        del _now.host, _now.device, _now.step


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """transformers' interface: [1, heads, tokens, columns] in, [1, tokens, heads, columns] out."""
    node = _now.host.attentions[module.layer_idx]
    q, k, v = (x[0].transpose(0, 1).flatten(1) for x in (query, key, value))
    found = NODES[Attention](_now.device, node, _now.step, q, k, v)
    return found.view(1, len(found), node.heads, node.value_dim), None


@computes(Hosted)
def hosted(device: Device, node: Hosted, step: Step) -> Tensor:
    found: Tensor = node.host.hidden(device, step)
    return found


@computes(HostedLogits)
def hosted_logits(device: Device, node: HostedLogits, step: Step | None, x: Tensor) -> Tensor:
    found: Tensor = node.host.logits(x)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """transformers says nothing, and shows no bars."""
    logs: Any = logging  # has no types
    level, shows_bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if shows_bars:
            logs.enable_progress_bar()


transformers.AttentionInterface.register(ATTENTION, _attend)
