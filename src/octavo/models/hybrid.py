"""What decoders have in common whose layers are of two kinds: attention, and states of a fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import ClassVar

from octavo.graph import Graph, Node, Rows
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

# Tensors of GGUF files, after "blk.N.". Those that end neither in .weight nor in .bias there, or here, are in full.
GGUF_DELTA = {
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
GGUF_KEYS = {
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
    "ssm.inner_size": "linear_value_size",
    "full_attention_interval": "full_attention_interval",
}


class Hybrid(Decoder):
    """Attention in some layers; `mixer` makes of a norm what others add. The cache counts what both of them keep."""

    kind = "hybrid"
    kinds = ("full_attention", "linear_attention")
    mixer_name: ClassVar[str] = "linear_attn"
    states: ClassVar[int] = 1  # layers of the cache that a layer without attention takes

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.places = [*accumulate((1 if full else self.states for full in self.full), initial=0)]

    def mix(self, g: Graph, h: Node, i: int, at: str) -> Node:
        return super().mix(g, h, i, at) if self.full[i] else self.mixer(g, h, i, f"{at}.{self.mixer_name}")

    def mixer(self, g: Graph, h: Node, i: int, at: str) -> Node:
        raise NotImplementedError


class GatedDeltaNet(Hybrid):
    """Of four layers, three have a gated delta rule over convolved q, k and v, normed and gated (Yang et al. 2024)."""

    states = 4
    delta_norm: ClassVar[str] = "norm"
    delta_out: ClassVar[str] = "out_proj"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.kernel = config.integer("linear_conv_kernel_dim", 4, low=2, high=64)
        self.key_heads = config.integer("linear_num_key_heads")
        self.value_heads = config.integer("linear_num_value_heads")
        self.key_dim = config.integer("linear_key_head_dim")
        size = config.integer("linear_value_size", self.value_heads * config.integer("linear_value_head_dim", 128))
        self.value_dim = size // self.value_heads
        if self.value_heads % self.key_heads or size % self.value_heads:
            reason = f"{self.value_heads} heads of {size} values are no multiple of {self.key_heads} heads of keys"
            raise config.fail("linear_num_value_heads", reason)
        self.beta_factor, self.delta_eps = 1.0, self.eps

    @classmethod
    def completed(cls, family: GGUFFamily) -> GGUFFamily:
        family = super().completed(family)
        return replace(family, keys=GGUF_KEYS | {**family.keys}, values={"decay_is_log": False, **family.values})

    @classmethod
    def gguf_names(cls) -> dict[str, str]:
        return super().gguf_names() | GGUF_DELTA

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("full_attention_interval", 4) == 0

    @property
    def delta_sizes(self) -> tuple[int, int, int]:
        """Columns of q, k and v."""
        keys = self.key_heads * self.key_dim
        return keys, keys, self.value_heads * self.value_dim

    def convolve(self, g: Graph, qkv: Sequence[Node], i: int, at: str) -> Sequence[Node]:
        """q, k and v, each with the last tokens' own; the weights of all are stored as one."""
        found, start, total = list[Node](), 0, sum(self.delta_sizes)
        for x in qkv:
            how = {"rows": Rows(1, total, start, start + x.columns), "activation": self.activation}
            found.append(g.causal_conv(x, f"{at}.conv1d", self.kernel, self.places[i] + len(found), **how))
            start += x.columns
        return found

    def delta(self, g: Graph, qkv: Sequence[Node], a: Node, b: Node, gate: Node, i: int, at: str) -> Node:
        h = g.delta(
            *self.convolve(g, qkv, i, at),
            a,
            b,
            f"{at}.A_log",
            f"{at}.dt_bias",
            key_dim=self.key_dim,
            layer=self.places[i] + 3,
            decay_is_log=self.config.flag("decay_is_log", True),
            tiled=self.config.flag("tiled_value_heads"),
            factor=self.beta_factor,
        )
        h = g.rms_norm(h, f"{at}.{self.delta_norm}", self.delta_eps, width=self.value_dim)
        return g.linear(g.glu(gate, h), f"{at}.{self.delta_out}", self.hidden)
