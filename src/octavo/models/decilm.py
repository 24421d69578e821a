"""Llama Nemotron 49B, 51B and 253B, and DeciLM 7B."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

MULTIPLE = 256  # of which widths are that follow from a factor
GGUF_LISTS = {
    "attention.head_count": "heads_of_layers", "attention.head_count_kv": "num_key_value_heads_per_layer",
    "feed_forward_length": "widths_of_layers",
}  # fmt: skip


class DeciLM(Decoder):
    """Llama whose layers differ: in their KV heads, in the width of their MLP, or lacking either (NVIDIA 2024)."""

    architectures = ("DeciLMForCausalLM",)
    model_types = ("deci", "nemotron-nas")
    mlp_factor = 4  # where the width of all is not said
    gguf = (GGUFFamily("deci", lists=GGUF_LISTS, permuted=True),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.groups: list[int | None]
        self.widths: list[int | None]
        blocks = self.config.values.get("block_configs")
        if blocks is None:
            widths = self.config.integers("widths_of_layers", count=self.layers) or [self.intermediate] * self.layers
            self.groups, self.widths = self._groups_of_heads(), [width or None for width in widths]
            return
        if not isinstance(blocks, list) or len(blocks) < self.layers or not all(isinstance(b, dict) for b in blocks):
            raise self.config.fail("block_configs", f"must be a list of {self.layers} objects")
        numbered = {str(i): block for i, block in enumerate(blocks[: self.layers])}
        readers = ConfigReader({"block_configs": numbered}, self.config.fail).objects("block_configs")
        self.groups = [self._group(block.object("attention")) for block in readers]
        self.widths = [self._width(block.object("ffn")) for block in readers]

    def _groups_of_heads(self) -> list[int | None]:
        """As DeciLM 7B says it, and GGUF files, in which layers without attention have 0 heads."""
        kv_heads = self.config.integers("num_key_value_heads_per_layer")
        if len(kv_heads) < self.layers or any(heads and self.heads % heads for heads in kv_heads):
            reason = f"must be a list of {self.layers} divisors of {self.heads}, got {kv_heads}"
            raise self.config.fail("num_key_value_heads_per_layer", reason)
        expected = [self.heads if heads else 0 for heads in kv_heads]
        if self.config.integers("heads_of_layers") not in ([], expected):
            raise self.config.fail("heads_of_layers", f"with KV heads {kv_heads}, only {expected} is supported")
        return [self.heads // heads if heads else None for heads in kv_heads]

    def _group(self, attention: ConfigReader) -> int | None:
        """How many heads share a KV head; None for a layer without attention."""
        if _is_absent(attention):
            return None
        group = attention.integer("n_heads_in_group", high=self.heads)
        if self.heads % group:
            raise attention.fail("n_heads_in_group", f"must divide num_attention_heads, which is {self.heads}")
        return group

    def _width(self, ffn: ConfigReader) -> int | None:
        if _is_absent(ffn):
            return None
        if ffn.values.get("ffn_mult") is None:
            return ffn.integer("intermediate_size")
        return -(-int(2 * ffn.number("ffn_mult", high=1e3) * self.hidden / 3) // MULTIPLE) * MULTIPLE

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        group, width = self.groups[i], self.widths[i]
        if group is not None:
            self.kv_heads = self.heads // group
            number = sum(one is not None for one in self.groups[:i])  # of those layers that have a cache
            h = self.norm(g, x, f"{at}.input_layernorm")
            x = g.add(x, self.attention(g, h, number, f"{at}.self_attn"))
        if width is not None:
            x = g.add(x, self.gated(g, self.norm(g, x, f"{at}.post_attention_layernorm"), f"{at}.mlp", width))
        return x


def _is_absent(part: ConfigReader) -> bool:
    if part.flag("replace_with_linear"):
        raise part.fail("replace_with_linear", "is not supported")
    return part.flag("no_op")
