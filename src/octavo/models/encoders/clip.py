"""The side of CLIP that reads texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.graph import Graph, Node
from octavo.models.encoders.encoder import TextEncoder
from octavo.weights.config_reader import ConfigReader


class ClipText(TextEncoder):
    """A small GPT whose last token, which ends the text, is the text's (Radford et al. 2021).

    Vectors are in the space of those of images where the checkpoint has the projection to it.
    """

    architectures: ClassVar[tuple[str, ...]] = ("CLIPTextModel",)
    defaults: ClassVar[Mapping[str, object]] = {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
    }
    pooling = "last"
    causal = True
    is_pre_norm = True
    base_name = "text_model"
    names = {
        "word": "embeddings.token_embedding",
        "position": "embeddings.position_embedding",
        "segment": "",
        "embed_norm": "",
        "layers": "encoder.layers",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.out_proj",
        "attn_norm": "layer_norm1",
        "ffn_up": "mlp.fc1",
        "ffn_down": "mlp.fc2",
        "ffn_norm": "layer_norm2",
        "final_norm": "final_layer_norm",
    }


class Clip(ClipText):
    """With the projection; of a whole CLIP, the part that reads texts."""

    architectures = ("CLIPTextModelWithProjection", "CLIPModel")

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        of_text = config.object("text_config").values
        super().__init__(ConfigReader({**config.values, **of_text}, config.fail), max_model_len)
        self.projected = config.integer("projection_dim", 512)

    @property
    def ignored(self) -> tuple[str, ...]:
        return (*super().ignored, r"^(vision_model|visual_projection)\.", r"^logit_scale$")

    def end(self, g: Graph, x: Node) -> Node:
        return g.linear(super().end(g, x), "text_projection", self.projected, bias=False)
