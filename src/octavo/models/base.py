"""What a model declaration is: a class that reads a configuration and builds a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.graph import Graph
from octavo.graph.cache import state_bytes
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class CausalLM:
    """A language model: it predicts the next token, or embeds texts. Subclasses declare one architecture each."""

    architectures: ClassVar[tuple[str, ...]] = ()  # the names that config.json uses
    model_types: ClassVar[tuple[str, ...]] = ()  # that text_config has where this is the text part of a larger model
    kind: ClassVar[str] = "dense"  # or what `kind_of` says of its graphs
    gguf: ClassVar[tuple[GGUFFamily, ...]] = ()  # what its GGUF files say
    is_hosted: ClassVar[bool] = False  # another library has its layers, and loads their weights
    pooling: str | None = None  # of a model whose output is hidden states: how they become a text's vector
    inputs: ClassVar[str] = "text"  # what its prompts are, for whoever reads them
    names: ClassVar[Mapping[str, str]] = {}  # of its parts, in checkpoints, where those are not the base's
    parts: Mapping[str, str] = {}  # all of them, of this class

    vocab_size: int
    max_positions: int  # the context that the model was trained on
    longest_positions: int  # the longest that its rotary embedding can be stretched to
    source_positions: int = 0  # of what its encoder reads, if it has one

    def __init_subclass__(cls) -> None:
        """Completes what a class declares by what it is built on."""
        super().__init_subclass__()
        bases = (vars(base).get("names", {}) for base in reversed(cls.__mro__))
        cls.parts = {part: name for names in bases for part, name in names.items()}
        cls.gguf = tuple(cls.completed(family) for family in vars(cls).get("gguf", ()))  # no other class's

    @classmethod
    def completed(cls, family: GGUFFamily) -> GGUFFamily:
        """What is declared of GGUF files, and what follows from the class."""
        return family

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        raise NotImplementedError

    @property
    def declared_by(self) -> str:
        return f"{type(self).__module__}:{type(self).__qualname__}"

    @property
    def ignored(self) -> tuple[str, ...]:
        """Patterns of tensors that checkpoints may have and that the model does not need."""
        return ()

    def build(self) -> Graph:
        """The model's graph: token ids in, logits or hidden states out."""
        raise NotImplementedError

    def build_encoder(self) -> Graph | None:
        """The graph of its encoder, if it has one: a source in, keys and values for cross attention stored."""
        return None


def kind_of(graph: Graph, encoder: Graph | None = None) -> str:
    """What a model is: "encoder", "encoder-decoder", "hybrid" with states beside pages, "experts", both, or "dense"."""
    if encoder is not None:
        return "encoder-decoder"
    experts, states = any(node.name() == "experts" for node in graph.nodes), state_bytes(graph.layers.values())
    found = {"encoder": graph.keeps_nothing, "hybrid": states > 0, "experts": experts}
    return ", ".join(kind for kind, is_so in found.items() if is_so) or "dense"
