"""OPT."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader

OFFSET = 2  # rows of the table of positions before the first one's


class OPT(Decoder):
    """Learned positions, layer norms, ReLU, biases everywhere (Zhang et al. 2022).

    350m has its norms behind the sums, and embeddings of another width.
    """

    architectures = ("OPTForCausalLM",)
    model_types = ("opt",)
    fields = {
        "intermediate_size": "ffn_dim",
        "hidden_act": "activation_function",
        "attention_bias": "enable_bias",
        "mlp_bias": "enable_bias",
    }
    defaults = {
        "hidden_act": "relu",
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "rms_norm_eps": 1e-5,
    }
    has_rope = False
    is_layer_norm = True
    embed_name = "model.decoder.embed_tokens"
    layers_name = "model.decoder.layers"
    norm_name = "model.decoder.final_layer_norm"
    names = {
        "attn_norm": "self_attn_layer_norm",
        "attn_output": "out_proj",
        "ffn_norm": "final_layer_norm",
        "mlp": "",
        "ffn_gate": "",
        "ffn_up": "fc1",
        "ffn_down": "fc2",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.is_pre_norm = config.flag("do_layer_norm_before", True)
        self.has_last_norm = self.is_pre_norm and not config.flag("_remove_final_layer_norm")
        self.embed_width = config.integer("word_embed_proj_dim", self.hidden)
        if not config.flag("layer_norm_elementwise_affine", True):
            raise config.fail("layer_norm_elementwise_affine", "only true is supported")

    def build(self) -> Graph:
        g = Graph()
        x = g.embed(self.embed_name, self.vocab_size, self.embed_width)
        if self.embed_width != self.hidden:
            x = g.linear(x, "model.decoder.project_in", self.hidden)
        x = g.add(x, g.position_embed("model.decoder.embed_positions", self.max_positions, self.hidden, OFFSET))
        for i in range(self.layers):
            x = self.layer(g, x, i, f"{self.layers_name}.{i}")
        if self.has_last_norm:
            x = self.norm(g, x, self.norm_name)
        if self.embed_width != self.hidden:
            x = g.linear(x, "model.decoder.project_out", self.embed_width)
        g.logits(x, self.embed_name if self.tied else self.head_name, self.vocab_size)
        return g

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        if self.is_pre_norm:
            return super().layer(g, x, i, at)
        x = self.norm_of(g, g.add(x, self.mix(g, x, i, at)), at, "attn_norm")
        return self.norm_of(g, g.add(x, self.feed_forward(g, x, i, at)), at, "ffn_norm")
