"""Decoders whose last layers look at the keys of others, and whose heads differ by the kind of layer."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.graph.ops.rope import RopeTable
from octavo.models.decoder import Decoder
from octavo.models.rope import for_layers, rope_table
from octavo.weights.config_reader import ConfigReader


class SharedKeys(Decoder):
    """Layers that look at everything, the last among them, have heads of another width, and frequencies of their own.

    The last `num_kv_shared_layers` look at the keys of the last one of their kind before them.
    """

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.full[-1], self.windows[-1] = True, None  # whatever layer_types says
        self.reuses_keys = config.flag("attention_k_eq_v")
        self.sizes = [self.heads_of(i) for i in range(self.layers)]
        shared = config.integer("num_kv_shared_layers", 0, low=0, high=self.layers - 1)
        self.owners = [self.owner(i, self.layers - shared) for i in range(self.layers)]
        local = for_layers(config, "sliding_attention", config.number("rope_local_base_freq", 1e4))
        kinds = [for_layers(config, "full_attention") if full else local for full in self.full]
        limits = self.max_positions, self.max_model_len
        self.ropes = [rope_table(kind, dim, *limits) for kind, (dim, _) in zip(kinds, self.sizes, strict=True)]

    def rope(self, config: ConfigReader) -> RopeTable | None:
        """None of all layers: each kind has its own."""
        return None

    def heads_of(self, i: int) -> tuple[int, int]:
        """The width of a layer's heads, and how many heads of keys it has."""
        config, said = self.config, self.config.object("per_layer_config")
        if said.values:
            own = said.object(next((name for name in said.values if name.lstrip("0") == str(i).lstrip("0")), str(i)))
            return own.integer("head_dim", self.head_dim), own.integer("num_key_value_heads", self.kv_heads)
        dim = config.integer("global_head_dim", 512, high=1024) if self.full[i] else self.head_dim
        if kv_heads := config.integers("kv_heads_of_layers", low=1, count=self.layers):
            return dim, kv_heads[i]
        field = "num_global_key_value_heads" if self.full[i] and self.reuses_keys else "num_key_value_heads"
        return dim, config.integer(field, self.kv_heads)

    def owner(self, i: int, first_shared: int) -> int:
        """The layer at whose keys a layer looks."""
        kind = (layer for layer in range(first_shared) if self.full[layer] == self.full[i])
        return i if i < first_shared else max(kind)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Also keys and values of layers that look at another's."""
        shared = "|".join(str(i) for i in range(self.layers) if self.owners[i] != i)
        return (*super().ignored, rf"^{self.layers_name}\.({shared})\.self_attn\.[kv]_")

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        (dim, kv_heads), rope, k, v = self.sizes[i], self.ropes[i], None, None
        q = g.linear(h, f"{at}.q_proj", self.heads * dim, self.qkv_bias)
        q = g.rope(g.rms_norm(q, f"{at}.q_norm", self.eps, width=dim), dim, rope)
        if self.owners[i] == i:
            k = g.linear(h, f"{at}.k_proj", kv_heads * dim, self.qkv_bias)
            is_same = self.full[i] and self.reuses_keys
            v = k if is_same else g.linear(h, f"{at}.v_proj", kv_heads * dim, self.qkv_bias)
            v = g.rms_norm(v, None, self.eps, width=dim)
            k = g.rope(g.rms_norm(k, f"{at}.k_norm", self.eps, width=dim), dim, rope)
        how = {"layer": self.owners[i], "kv_heads": kv_heads, "head_dim": dim, "scale": 1.0, "window": self.windows[i]}
        return self.project(g, g.attention(q, k, v, **how), at)
