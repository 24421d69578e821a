"""Tiny random checkpoints, written and run by transformers."""

import json

import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, quantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from octavo.models import open_model

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # its threads spin, which costs more than they do for models of this size

KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}
SIZES = {
    "vocab_size": 301,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
}


def classes_of(kind):
    """Configuration and model: of `KINDS`, or those of transformers, the first of which is called `kind` and Config."""
    if kind in KINDS:
        return KINDS[kind]
    config = getattr(transformers, f"{kind}Config")
    try:
        return config, transformers.AutoModelForCausalLM._model_mapping[config]
    except KeyError:  # that of the whole is meant there
        return config, getattr(transformers, f"{kind}ForCausalLM")


def save_checkpoint(path, kind="llama", seed=0, dtype=torch.float32, shard="1GB", **config):
    """Saves a random model of `dtype` into `path`; returns it as transformers reads it, in float32."""
    config_class, model_class = classes_of(kind)
    torch.manual_seed(seed)
    with torch.no_grad():
        model = model_class(config_class(**{**SIZES, **config}))
        for name, weight in model.named_parameters():
            weight.normal_()
            if weight.ndim == 1:
                weight.mul_(0.2).add_("norm" in name or "ln_" in name)
            elif "embed" not in name:
                weight.div_(weight.shape[1 if weight.ndim == 2 else -1] ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith(("correction_bias", "expert_bias")):
                buffer.normal_().mul_(0.2)
            if name.endswith("layer_scalar"):
                buffer.uniform_(0.5, 1.0)
    model.to(dtype).save_pretrained(path, safe_serialization=True, max_shard_size=shard)
    return model_class.from_pretrained(path, dtype=torch.float32).eval()


def edit_config(path, **changes):
    """Changes entries of config.json; a callable gets the old entry, None removes it."""
    file = path / "config.json"
    config = json.loads(file.read_text())
    for name, value in changes.items():
        config[name] = value(config[name]) if callable(value) else value
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def transformers_logits(model, tokens):
    """The model's logits after every token: float32 [tokens, vocabulary]."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


GGUF_SIZES = {
    "vocab_size": 301,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# The float16 scales of a block: byte offset and value. Their other bytes may be anything.
K_QUANTS = {
    "Q2_K": (84, {80: 4e-3, 82: 6e-3}),
    "Q3_K": (110, {108: 1e-3}),
    "Q4_K": (144, {0: 2e-4, 2: 1.5e-3}),
    "Q5_K": (176, {0: 1e-4, 2: 1.5e-3}),
    "Q6_K": (210, {208: 4e-5}),
}


def save_gguf(path, kind, seed=0, **advice):
    """Saves a random Llama with all matrices in format `kind`; returns it with the values of the file.

    `advice` is on sampling, by GGUF's names.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    config = LlamaConfig(**GGUF_SIZES, rms_norm_eps=1e-5)
    model = LlamaForCausalLM(config).eval()
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    for name, value in advice.items():
        writer.add_float32(f"general.sampling.{name}", value)
    for name, weight in model.named_parameters():
        vector = weight.ndim == 1
        data, values = random_blocks(rng, "F32" if vector else kind, tuple(weight.shape))
        weight.data = torch.from_numpy(values)
        if heads := heads_of(name, config):
            data = swap_rows(data, heads)
        writer.add_tensor(gguf_name(name), data, raw_dtype=GGMLQuantizationType["F32" if vector else kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def read_gguf(path):
    """A Llama in a GGUF file as transformers runs it, in float32; the gguf package reads the weights."""
    config = LlamaConfig(**open_model(path).config)
    model = LlamaForCausalLM(config).eval()
    stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for name, weight in model.named_parameters():
        tensor = stored[gguf_name(name)]
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if heads := heads_of(name, config):
            values = values.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2)
        weight.data = torch.from_numpy(values.reshape(weight.shape).copy())
    return model


def gguf_name(name):
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def heads_of(name, config):
    """How many heads the rows of Q or K are; None for other tensors."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return heads.get(name.split(".")[-2])


def random_blocks(rng, kind, shape):
    """Random data of a tensor in a format of GGUF, by rows, and the float32 values that they stand for."""
    if kind in K_QUANTS:
        size, scales = K_QUANTS[kind]
        blocks = rng.integers(0, 256, (shape[0], shape[1] // 256, size), dtype=np.uint8)
        for offset, scale in scales.items():
            blocks[..., offset : offset + 2] = np.array([scale], np.float16).view(np.uint8)
        data = blocks.reshape(shape[0], -1)
    else:
        values = rng.standard_normal(shape).astype(np.float32) / 16
        data = quantize(values + (len(shape) == 1), GGMLQuantizationType[kind])
    return data, dequantize(data, GGMLQuantizationType[kind]).astype(np.float32).reshape(shape)


def swap_rows(data, heads):
    """The order in which llama.cpp stores the rows of Q and K: those that rotate together are neighbours."""
    return data.reshape(heads, 2, data.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(data.shape)


CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_tokenizer(path, text, vocab_size=480):
    """Saves a byte-level BPE tokenizer, trained on `text`, with <|end|> as its end of sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"bos_token": special[0], "eos_token": special[1], "chat_template": CHAT_TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def reference_tokens(model, prompt, choose, count):
    """`count` tokens after `prompt`, each chosen by `choose` from the model's logits, all of it computed anew."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(choose(transformers_logits(model, tokens)[-1]))
    return tokens[len(prompt) :]
