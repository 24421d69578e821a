"""Whisper in all sizes: tiny to large-v3, turbo, the .en models, and distilled ones."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.base import CausalLM
from octavo.weights.config_reader import ConfigReader

EPS = 1e-5
MEL_ROWS = 2  # frames of the spectrogram for each position: the second convolution has a stride of two


class Whisper(CausalLM):
    """An encoder of 30 s of sound and a decoder of text that looks at it (Radford et al. 2022)."""

    architectures = ("WhisperForConditionalGeneration",)
    kind = "encoder-decoder"
    inputs = "speech"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        self.hidden = config.integer("d_model")
        self.encoder_layers = config.integer("encoder_layers", high=4096)
        self.decoder_layers = config.integer("decoder_layers", high=4096)
        self.heads = config.integer("decoder_attention_heads")
        if config.integer("encoder_attention_heads") != self.heads:
            raise config.fail("encoder_attention_heads", f"must be decoder_attention_heads, which is {self.heads}")
        if self.hidden % self.heads:
            raise config.fail("d_model", f"must be a multiple of {self.heads} heads, got {self.hidden}")
        self.head_dim = self.hidden // self.heads
        self.encoder_ffn = config.integer("encoder_ffn_dim")
        self.decoder_ffn = config.integer("decoder_ffn_dim")
        self.num_mel_bins = config.integer("num_mel_bins", 80)
        self.source_positions = config.integer("max_source_positions", 1500)
        self.vocab_size = config.integer("vocab_size")
        self.max_positions = self.longest_positions = config.integer("max_target_positions", 448)
        activation = config.values.get("activation_function", "gelu")
        if activation != "gelu":
            raise config.fail("activation_function", f"only gelu is known, got {activation!r}")
        if config.flag("scale_embedding"):
            raise config.fail("scale_embedding", "scaled embeddings are not known")

    @property
    def ignored(self) -> tuple[str, ...]:
        """Some checkpoints store the tied table twice."""
        return (r"^proj_out\.weight$",)

    def build_encoder(self) -> Graph:
        g = Graph()
        x = g.features(self.num_mel_bins, MEL_ROWS)
        x = g.activation(g.conv1d(x, "model.encoder.conv1", self.hidden, kernel=3), "gelu")
        x = g.activation(g.conv1d(x, "model.encoder.conv2", self.hidden, kernel=3, stride=MEL_ROWS), "gelu")
        x = g.add(x, g.position_embed("model.encoder.embed_positions", self.source_positions, self.hidden))
        for i in range(self.encoder_layers):
            at = f"model.encoder.layers.{i}"
            x = self.self_attention(g, x, at, layer=None, causal=False)
            x = self.mlp(g, x, at, self.encoder_ffn)
        x = g.layer_norm(x, "model.encoder.layer_norm", EPS)
        for i in range(self.decoder_layers):
            at = f"model.decoder.layers.{i}.encoder_attn"
            k, v = g.linear(x, f"{at}.k_proj", self.hidden), g.linear(x, f"{at}.v_proj", self.hidden, bias=True)
            g.store_source(k, v, layer=i, head_dim=self.head_dim)
        return g

    def build(self) -> Graph:
        g = Graph()
        x = g.embed("model.decoder.embed_tokens", self.vocab_size, self.hidden)
        x = g.add(x, g.position_embed("model.decoder.embed_positions", self.max_positions, self.hidden))
        for i in range(self.decoder_layers):
            at = f"model.decoder.layers.{i}"
            x = self.self_attention(g, x, at, layer=i, causal=True)
            x = self.cross_attention(g, x, at, layer=i)
            x = self.mlp(g, x, at, self.decoder_ffn)
        x = g.layer_norm(x, "model.decoder.layer_norm", EPS)
        g.logits(x, "model.decoder.embed_tokens", self.vocab_size)
        return g

    def self_attention(self, g: Graph, x: Node, at: str, layer: int | None, causal: bool) -> Node:
        h = g.layer_norm(x, f"{at}.self_attn_layer_norm", EPS)
        q, v = (g.linear(h, f"{at}.self_attn.{name}_proj", self.hidden, bias=True) for name in "qv")
        k = g.linear(h, f"{at}.self_attn.k_proj", self.hidden)
        scale = self.head_dim**-0.5
        h = g.attention(q, k, v, layer=layer, head_dim=self.head_dim, scale=scale, causal=causal)
        return g.add(x, g.linear(h, f"{at}.self_attn.out_proj", self.hidden, bias=True))

    def cross_attention(self, g: Graph, x: Node, at: str, layer: int) -> Node:
        h = g.layer_norm(x, f"{at}.encoder_attn_layer_norm", EPS)
        q = g.linear(h, f"{at}.encoder_attn.q_proj", self.hidden, bias=True)
        scale = self.head_dim**-0.5
        h = g.cross_attention(q, layer=layer, kv_heads=self.heads, head_dim=self.head_dim, scale=scale)
        return g.add(x, g.linear(h, f"{at}.encoder_attn.out_proj", self.hidden, bias=True))

    def mlp(self, g: Graph, x: Node, at: str, intermediate: int) -> Node:
        h = g.layer_norm(x, f"{at}.final_layer_norm", EPS)
        h = g.activation(g.linear(h, f"{at}.fc1", intermediate, bias=True), "gelu")
        return g.add(x, g.linear(h, f"{at}.fc2", self.hidden, bias=True))
