"""Granite 3.0 and 3.1 with experts, PowerMoE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.graph import Graph, Node, Rows, Weight
from octavo.models.decoder import split
from octavo.models.granite import KEYS, Granite
from octavo.models.granite_swa import GraniteSWA
from octavo.models.mixture import Mixture
from octavo.weights.gguf_family import GGUFFamily


class GraniteMoe(Mixture, Granite):
    """Granite with experts, of which those of a layer are stored as two stacks (Granite Team 2024)."""

    architectures: ClassVar[tuple[str, ...]] = ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM")
    model_types: ClassVar[tuple[str, ...]] = ("granitemoe", "granitemoeshared")
    fields = {"num_experts": "num_local_experts", "shared_expert_intermediate_size": "shared_intermediate_size"}
    names = {"mlp": "block_sparse_moe"}
    router_name = "router.layer"
    shared_name = "shared_mlp"
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (GGUFFamily("granitemoe", keys=KEYS, permuted=True),)

    def shared(self, g: Graph, h: Node, at: str) -> Node:
        if self.layout != "apart":
            return super().shared(g, h, at)
        gate, up = split(g, h, f"{at}.input_linear", [self.shared_size] * 2)
        return g.linear(g.glu(gate, up, self.activation), f"{at}.output_linear", self.hidden)

    def matrices(self, at: str) -> Mapping[str, list[Weight]]:
        if self.layout != "apart":
            return super().matrices(at)
        size, inner = self.expert_size, (self.expert_size, self.hidden)
        gate, up = (Rows(1, 2 * size, start, start + size) for start in (0, size))
        return {
            "gate": self.stack(f"{at}.input_linear.weight", inner, gate),
            "up": self.stack(f"{at}.input_linear.weight", inner, up),
            "down": self.stack(f"{at}.output_linear.weight", inner[::-1]),
        }


class GraniteMoeSWA(GraniteMoe, GraniteSWA):
    """The same with a sink for each head, and windows in three of four layers."""

    architectures = ("GraniteMoeSWAForCausalLM",)
    model_types = ("granitemoe_swa",)
    router_name = "router"
