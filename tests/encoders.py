"""Tiny random checkpoints of text encoders, written and run by transformers, and folders of sentence-transformers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import remote_encoders
from families import one_more
from remote_encoders import Remote

SIZES = {
    "vocab_size": 301,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 140,
}


@dataclass
class Encoder:
    """What transformers calls a family's model, and how its configuration differs from SIZES; None leaves out.

    `gguf`, `keys` and `convert` are those of `families.Family`.
    """

    name: str
    sizes: dict = field(default_factory=dict)
    suffix: str = "Model"
    gguf: str | None = None
    keys: dict = field(default_factory=dict)
    convert: Callable = lambda name, values, config: values
    sizes_of_all: dict = field(default_factory=lambda: SIZES)

    def save(self, path, seed=0):
        """Saves a random model; returns it as transformers reads it, in float32."""
        sizes = {key: value for key, value in (self.sizes_of_all | self.sizes).items() if value is not None}
        config = getattr(transformers, f"{self.name}Config")(**sizes)
        kind = getattr(transformers, f"{self.name}{self.suffix}")
        torch.manual_seed(seed)
        with torch.no_grad():
            model = kind(config)
            for name, weight in model.named_parameters():
                weight.normal_()
                if weight.ndim < 2:
                    weight.mul_(0.2).add_("norm" in name.lower() and name.endswith("weight"))
                elif "embed" not in name:
                    weight.div_(weight.shape[1] ** 0.5)
        model.save_pretrained(path)
        return kind.from_pretrained(path, dtype=torch.float32).eval()


DISTILBERT = {
    "dim": 48, "hidden_dim": 80, "n_layers": 3, "n_heads": 4,
    "hidden_size": None, "intermediate_size": None, "num_hidden_layers": None, "num_attention_heads": None,
}  # fmt: skip
GEMMA = {
    "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
    "num_hidden_layers": 7, "sliding_window": 22, "use_bidirectional_attention": True, "query_pre_attn_scalar": 16,
}  # fmt: skip
BOTH_WAYS = {"attention.causal": False}


def without_pooler(name, values, config):
    return {} if name.startswith("pooler.") else values


def without_offset(name, values, config):
    """RoBERTa's table of positions from the row of the first token on."""
    values = without_pooler(name, values, config)
    return values[config.pad_token_id + 1 :] if "position_embeddings" in name else values


T5 = {
    "d_model": 48, "d_ff": 80, "d_kv": 12, "num_layers": 3, "num_heads": 4, "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 50,
    "hidden_size": None, "intermediate_size": None, "num_hidden_layers": None, "num_attention_heads": None,
    "max_position_embeddings": None,
}  # fmt: skip
CLIP = {"projection_dim": 40, "bos_token_id": 299, "eos_token_id": 300, "pad_token_id": 1}
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 16,
}  # fmt: skip
ENCODERS = {
    "BERT": Encoder("Bert", gguf="bert", keys=BOTH_WAYS, convert=without_pooler),
    "BERT for masked tokens": Encoder("Bert", {"hidden_act": "gelu_new", "type_vocab_size": 3}, "ForMaskedLM"),
    "RoBERTa": Encoder(
        "Roberta",
        {"pad_token_id": 1, "type_vocab_size": 1},
        gguf="bert",
        keys={**BOTH_WAYS, "context_length": 138},
        convert=without_offset,
    ),
    "XLM-RoBERTa": Encoder("XLMRoberta", {"pad_token_id": 5}, "ForMaskedLM"),
    "CamemBERT": Encoder("Camembert", {"pad_token_id": 1, "type_vocab_size": 1}),
    "CamemBERT for masked tokens": Encoder("Camembert", {"pad_token_id": 1}, "ForMaskedLM"),
    "ModernBERT": Encoder(
        "ModernBert",
        {"local_attention": 16, "num_hidden_layers": 5, "pad_token_id": 0},
        gguf="modern-bert",
        keys={
            **BOTH_WAYS,
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": 3,
            "rope.freq_base": 160000.0,
            "rope.freq_base_swa": 10000.0,
            "hidden_activation": "gelu",
        },
    ),
    "ModernBERT for masked tokens": Encoder("ModernBert", {"norm_bias": True, "pad_token_id": 0}, "ForMaskedLM"),
    "EuroBERT": Encoder("EuroBert", {"num_key_value_heads": 2, "pad_token_id": 0}, gguf="eurobert", keys=BOTH_WAYS),
    "EuroBERT for masked tokens": Encoder("EuroBert", {"pad_token_id": 0}, "ForMaskedLM"),
    "EmbeddingGemma": Encoder(
        "Gemma3Text",
        GEMMA,
        gguf="gemma-embedding",
        keys={"attention.sliding_window": 22, "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4},
        convert=one_more,
    ),
    "Nomic": Encoder("NomicBert", gguf="nomic-bert", keys=BOTH_WAYS),
    "Nomic for masked tokens": Encoder("NomicBert", suffix="ForMaskedLM"),
    "GTE": Encoder("Gte", {"pad_token_id": 0, "type_vocab_size": 2}),
    "DistilBERT for masked tokens": Encoder("DistilBert", {**DISTILBERT, "activation": "relu"}, "ForMaskedLM"),
    "GTE for masked tokens": Encoder("Gte", {"pad_token_id": 0}, "ForMaskedLM"),
    "DistilBERT": Encoder("DistilBert", DISTILBERT, gguf="bert", keys={**BOTH_WAYS, "feed_forward_length": 80}),
    "MPNet": Encoder("MPNet", {"relative_attention_num_buckets": 32}),
    "MPNet for masked tokens": Encoder("MPNet", {"relative_attention_num_buckets": 32}, "ForMaskedLM"),
    "T5": Encoder("T5", T5, "EncoderModel"),
    "T5 with a gate": Encoder("MT5", T5 | {"feed_forward_proj": "gated-gelu", "d_kv": 20}, "EncoderModel"),
    "Jina v2": Remote(
        "JinaBertModel", remote_encoders.JINA_V2, remote_encoders.jina_v2, gguf="jina-bert-v2", keys=BOTH_WAYS
    ),
    "Jina v2 with norms of q and k": Remote("JinaBertModel", remote_encoders.JINA_CODE, remote_encoders.jina_v2),
    "Nomic v2 with experts": Remote("NomicBertModel", remote_encoders.NOMIC_MOE, remote_encoders.nomic_moe),
    "Nomic v2 whose experts have no bias": Remote(
        "NomicBertModel",
        remote_encoders.NOMIC_MOE | {"bias_deviation": 0.0},
        remote_encoders.nomic_moe,
        gguf="nomic-bert-moe",
        keys={**BOTH_WAYS, "expert_count": 4, "expert_used_count": 2, "moe_every_n_layers": 2, "rope.freq_base": 1e4},
        convert=remote_encoders.with_stacks,
    ),
    "Jina v3": Encoder("JinaEmbeddingsV3"),
    "Jina v3 for masked tokens": Encoder("JinaEmbeddingsV3", suffix="ForMaskedLM"),
    "CLIP": Encoder("CLIPText", CLIP),
    "CLIP with a projection": Encoder("CLIPText", CLIP, "ModelWithProjection"),
    "CLIP of texts and images": Encoder(
        "CLIP", {"text_config": SIZES | CLIP, "vision_config": VISION, "projection_dim": 56}, sizes_of_all={}
    ),
}


def rows_of(model, tokens):
    """The last hidden states of a text, projected where the model does that: float32 [tokens, columns]."""
    if not isinstance(model, torch.nn.Module):
        return model(tokens)
    if hasattr(model, "text_projection"):
        with torch.no_grad():
            return model.text_projection(model.text_model(torch.tensor([tokens])).last_hidden_state)[0].numpy()
    with torch.no_grad():
        found = model(torch.tensor([tokens]), output_hidden_states=True)
    last = found.last_hidden_state if hasattr(found, "last_hidden_state") else found.hidden_states[-1]
    return last[0].float().numpy()


WORDS = [*"the a cat dog sat on mat query passage : of king queen river money bank what is where".split()]  # noqa: SIM905


def save_words(path):
    """A tokenizer of words, which puts [CLS] before a text and [SEP] behind it."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends)
    tokenizer.enable_truncation(4)  # as folders of sentence-transformers have it
    tokenizer.enable_padding()
    tokenizer.save(str(path / "tokenizer.json"))


def word_pieces(size=SIZES["vocab_size"]):
    """The same as GGUF files have it, and rows that stand for nothing."""
    special, unused = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], range(4 + len(WORDS), size)
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [*special, *(f"▁{word}" for word in WORDS), *(f"▁[PAD{i}]" for i in unused)],
        "tokenizer.ggml.token_type": [3] * 4 + [1] * len(WORDS) + [5] * len(unused),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.token_type_count": 2,
    }


def save_chain(path, *modules, **config):
    """A folder of sentence-transformers whose modules are given: (type, configuration, tensors)."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
    for i, (kind, said, tensors) in enumerate(modules, 1):
        place = path / f"{i}_{kind.rsplit('.', 1)[-1]}"
        place.mkdir()
        (place / "config.json").write_text(json.dumps(said))
        if tensors:
            save_file(tensors, place / "model.safetensors")
        listed.append({"idx": i, "name": str(i), "path": place.name, "type": f"sentence_transformers.{kind}"})
    (path / "modules.json").write_text(json.dumps(listed))
    (path / "sentence_bert_config.json").write_text(json.dumps(config))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (path / "tokenizer_config.json").write_text(json.dumps({**special, "tokenizer_class": "PreTrainedTokenizerFast"}))


def save_modules(path, mode="mean_tokens", dense=None, normalizes=True, prompts=None, **config):
    """What sentence-transformers has beside the model; `dense` are sizes (in, out) of layers. Returns their weights."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    (path / "1_Pooling").mkdir()
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {"word_embedding_dimension": 48, **{f"pooling_mode_{name}": name == mode for name in names}}
    (path / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, **config}))
    weights = []
    for i, (size, out) in enumerate(dense or []):
        place = path / f"{i + 2}_Dense"
        place.mkdir()
        kind = "torch.nn.modules.activation.Tanh" if i == 0 else "torch.nn.modules.linear.Identity"
        entry = {"in_features": size, "out_features": out, "bias": i == 0, "activation_function": kind}
        (place / "config.json").write_text(json.dumps(entry))
        rng = np.random.default_rng(i)
        layer = {"linear.weight": rng.standard_normal((out, size), np.float32) / size**0.5}
        if i == 0:
            layer["linear.bias"] = rng.standard_normal(out, np.float32)
        save_file(layer, place / "model.safetensors")
        weights.append(layer)
        modules.append(("Dense", place.name))
    if normalizes:
        modules.append(("Normalize", "9_Normalize"))
    listed = [
        {"idx": i, "name": str(i), "path": at, "type": f"sentence_transformers.models.{name}"}
        for i, (name, at) in enumerate(modules)
    ]
    (path / "modules.json").write_text(json.dumps(listed))
    if prompts:
        (path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return weights
