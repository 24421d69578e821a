"""Declares a model of transformers that has no declaration here, by looking at it while it runs without weights.

On torch's meta device a model is made of shapes alone. A pass of two tokens says what every layer asks of its
attention: heads, widths, scale, window. What asks for more than attention over a sequence's own tokens is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface

from octavo.errors import UnsupportedError
from octavo.executor.torch.transformers_host import TransformersHost, body_of, hidden_of, logits_of, quiet
from octavo.graph.builder import Graph
from octavo.graph.hosted import Given, Hosted, HostedLogits
from octavo.graph.node import Weight
from octavo.graph.ops.attention import Attention
from octavo.models.base import CausalLM

TRACE = "octavo_trace"  # what transformers calls the attention function that only looks
_OF_BATCH = ("dynamic", "longrope")  # types of rope whose frequencies depend on the longest sequence of a batch
_SEEN = ("position_ids", "cache_position", "position_embeddings")  # tensors that layers pass on, and attention ignores


@dataclass(frozen=True)
class _Asked:
    """What a layer asks of its attention: [batch, heads, tokens, columns] of q, k and v, and the rest."""

    module: nn.Module
    shapes: tuple[torch.Size, ...]
    mask: Tensor | None
    options: dict[str, Any]


def class_of(architecture: str) -> Any:
    """The class of transformers, if it is a causal language model."""
    names = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    known = {name for one in names for name in ([one] if isinstance(one, str) else one)}
    return getattr(transformers, architecture, None) if architecture in known else None


class TransformersModel(CausalLM):
    """Any causal language model of transformers whose attention can be replaced."""

    kind = "transformers"
    is_hosted = True

    def __init__(self, path: Path, architecture: str):
        """Raises UnsupportedError, with the architecture's name, for what can't be run so."""
        self.architecture, kind = architecture, class_of(architecture)
        if kind is None:
            raise self._refusal(f"transformers {transformers.__version__} has no causal language model of this name")
        with quiet():
            config = kind.config_class.from_pretrained(path, local_files_only=True)
        text = config.get_text_config()
        self._check(kind, config, text)
        self.max_positions = self.longest_positions = getattr(text, "max_position_embeddings", None) or 2048
        model, asked, hidden, logits = self._trace(kind, config)
        if missing := sorted(set(range(text.num_hidden_layers)) - asked.keys()):
            raise self._refusal(f"layers {missing} have no attention over a sequence's tokens")
        self.vocab_size = logits.shape[-1]
        self.attentions = {layer: self._attention(layer, one) for layer, one in sorted(asked.items())}
        self.host = TransformersHost(path, kind, config, self.attentions)
        weights = tuple(Weight(name, tuple(one.shape)) for name, one in model.named_parameters())
        widest = max((m.out_features for m in body_of(model)[1].modules() if isinstance(m, nn.Linear)), default=0)
        self.layers = Hosted(hidden.shape[-1], self.host, 6 * hidden.shape[-1] + 4 * widest, weights)

    @property
    def declared_by(self) -> str:
        return f"transformers {transformers.__version__}"

    def build(self) -> Graph:
        g = Graph()
        x = g.append(self.layers)
        for node in self.attentions.values():
            for one in (*node.inputs, node):
                g.append(one)
        g.append(HostedLogits(self.vocab_size, self.host, x))
        return g

    def _check(self, kind: Any, config: Any, text: Any) -> None:
        if getattr(config, "is_encoder_decoder", False) or getattr(text, "add_cross_attention", False):
            raise self._refusal("it looks at an encoder")
        if getattr(kind, "_is_stateful", False):
            raise self._refusal("it keeps a state of its own beside keys and values")
        if not getattr(kind, "_supports_attention_backend", False):
            raise self._refusal("its class in transformers lets nobody replace its attention")
        if getattr(config, "quantization_config", None):
            raise self._refusal("its weights are quantized, which needs a declaration of our own")
        if found := sorted(_rope_types(getattr(text, "rope_parameters", None)) & set(_OF_BATCH)):
            raise self._refusal(f"rope_type {found[0]!r} depends on the longest sequence of a batch")

    def _trace(self, kind: Any, config: Any) -> tuple[Any, dict[int, _Asked], Tensor, Tensor]:
        """The model without weights, what its layers ask of attention, and what a pass of two tokens gives."""
        asked: dict[int, _Asked] = {}

        def look(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
        ) -> Any:
            layer = getattr(module, "layer_idx", None)
            if layer is None or layer in asked:
                raise self._refusal(f"attention of {type(module).__name__} is not once for each layer")
            asked[layer] = _Asked(module, (query.shape, key.shape, value.shape), attention_mask, options)
            return query.new_empty(1, 2, query.shape[1], value.shape[-1]), None

        with quiet(), _attention_is(look), torch.device("meta"), torch.no_grad():
            model = kind._from_config(config, attn_implementation=TRACE, dtype=torch.float32).eval()
            if convolution := next((name for name, m in model.named_modules() if isinstance(m, nn.Conv1d)), None):
                raise self._refusal(f"{convolution} is a convolution over tokens")
            if model._can_set_experts_implementation():
                model.set_experts_implementation("batched_mm")  # which has no loop over what is chosen
            if reader := next((m for m in model.modules() if hasattr(m, "create_position_ids_from_input_ids")), None):
                raise self._refusal(f"{type(reader).__name__} counts positions from its padding token on")
            # With a mask of padding, transformers does not look for several sequences in a batch of one.
            tokens, mask = torch.zeros(2, dtype=torch.long), torch.ones(1, 2)
            try:
                hidden = hidden_of(model, tokens, torch.arange(2), attention_mask=mask)
                logits = logits_of(model, hidden)
            except UnsupportedError:
                raise
            except Exception as error:
                raise self._refusal(f"its layers can't be followed: {type(error).__name__}: {error}") from error
            found = dict(asked)
            asked.clear()
            if _runs(lambda: hidden_of(model, tokens, torch.arange(3), attention_mask=mask)):  # a position too many
                raise self._refusal("its layers count positions by themselves")
        return model, found, hidden, logits

    def _attention(self, layer: int, asked: _Asked) -> Attention:
        (_, heads, _, width), (_, kv_heads, _, key_width), (_, value_heads, _, value_width) = asked.shapes
        options, where = asked.options, f"layer {layer}"
        if key_width != width or value_heads != kv_heads:
            raise self._refusal(f"{where}: keys and values of {kv_heads} and {value_heads} heads, {key_width} columns")
        for name, value in options.items():
            if isinstance(value, Tensor) and name not in _SEEN:
                raise self._refusal(f"{where}: its attention has {name}, which is not known here")
        if not options.get("is_causal", getattr(asked.module, "is_causal", True)):
            raise self._refusal(f"{where}: its attention is not causal")
        scale = options.get("scaling")
        widths = (heads * width, kv_heads * width, kv_heads * value_width)
        node = Attention.of(
            *map(Given, widths),
            layer=layer,
            head_dim=width,
            value_dim=value_width,
            scale=width**-0.5 if scale is None else float(scale),
            window=self._window(where, asked.mask),
            softcap=options.get("softcap"),
        )
        assert isinstance(node, Attention)
        return node

    def _window(self, where: str, mask: Any) -> int | None:
        """How far back the newest token sees by a mask of `_attention_is`; None where it sees everything."""
        if mask is None:
            return None
        if not hasattr(mask, "sees"):
            raise self._refusal(f"{where}: its mask is made in another way than transformers' own")
        last = self.max_positions - 1
        try:
            seen = torch.as_tensor(mask.sees(0, 0, torch.tensor(last), torch.arange(last + 1))).expand(last + 1)
            window = int(seen.sum())
        except Exception as error:
            raise self._refusal(f"{where}: its mask depends on more than positions") from error
        if not window or not bool(seen[last + 1 - window :].all()):
            raise self._refusal(f"{where}: its mask is neither causal nor a window")
        return window if window <= last else None

    def _refusal(self, reason: str) -> UnsupportedError:
        return UnsupportedError(
            "model_impl", "transformers", f"transformers' layers can't run {self.architecture}: {reason}"
        )


@contextmanager
def _attention_is(look: Callable[..., Any]) -> Iterator[None]:
    """transformers calls `look` in place of attention; `sees(batch, head, q, k)` of a mask says what is seen."""

    def mask(batch_size: int, q_length: int, kv_length: int, *args: Any, mask_function: Any, **kwargs: Any) -> Tensor:
        made = torch.empty(batch_size, 1, q_length, kv_length, device="meta")
        made.sees = mask_function  # type: ignore[attr-defined]
        return made

    transformers.AttentionInterface.register(TRACE, look)
    AttentionMaskInterface.register(TRACE, mask)
    try:
        yield
    finally:
        for interface in (transformers.AttentionInterface, AttentionMaskInterface):
            interface._global_mapping.pop(TRACE)


def _runs(work: Callable[[], Any]) -> bool:
    try:
        work()
    except Exception:
        return False
    return True


def _rope_types(parameters: Any) -> set[str]:
    """All that a configuration's `rope_parameters` name, which may have some for each type of layer."""
    if not isinstance(parameters, dict):
        return set()
    found = {parameters.get("rope_type")} | {kind for one in parameters.values() for kind in _rope_types(one)}
    return {kind for kind in found if kind is not None}
