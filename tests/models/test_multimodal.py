"""Models that see or hear, loaded as the models of text that they contain."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from checkpoints import SIZES, edit_config, transformers_logits
from expert_families import EXPERTS, MIXTURES, ROUTED
from families import FAMILIES, Family, rename
from harness import error, logits_of, make_native, random_tokens
from octavo.errors import ModelLoadError
from octavo.models import load_declaration, open_model
from octavo.weights.bind import bind

FAMILIES = FAMILIES | MIXTURES
TOKENS = random_tokens(40, vocab=301)
TEXT = {**SIZES, "num_hidden_layers": 2, "pad_token_id": 0}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14}
QWEN_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48}
QWEN2_VISION = {"depth": 1, "embed_dim": 16, "hidden_size": 48, "num_heads": 2, "mlp_ratio": 1}
AUDIO = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
AUDIO |= {"num_mel_bins": 8, "max_source_positions": 20}
DELTA = {"num_hidden_layers": 4, "head_dim": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
DELTA |= {"linear_key_head_dim": 12, "linear_value_head_dim": 20}
DELTA_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA_EXPERTS |= {"shared_expert_intermediate_size": 40}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
TALL = {"num_attention_heads": 3, "num_key_value_heads": 1}
SPEECH = {
    "text_config": TEXT | {"model_type": "granite"},
    "encoder_config": {"input_dim": 8, "num_layers": 1, "hidden_dim": 16, "num_heads": 2, "dim_head": 8},
    "projector_config": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "encoder_hidden_size": 16,
    },
    "audio_token_index": 300,
}

MODELS = {
    "Gemma3": {
        "text_config": TEXT | {"head_dim": 8, "sliding_window": 16},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
    },
    "Idefics3": {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION, "image_token_id": 300},
    "InternVL": {
        "text_config": TEXT | {"model_type": "qwen2"},
        "vision_config": VISION | {"image_size": [28, 28], "patch_size": [14, 14]},
    },
    "Lfm2Vl": {
        "text_config": TEXT
        | {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
        "vision_config": {**VISION, "model_type": "siglip2_vision_model", "num_patches": 4},
        "image_token_id": 300,
    },
    "Llava": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model"},
        "image_token_index": 300,
    },
    "Mistral3": {
        "text_config": TEXT | {"model_type": "mistral", "sliding_window": None},
        "vision_config": VISION | {"model_type": "pixtral", "head_dim": 8},
        "image_token_index": 300,
    },
    "MuseGlimmer": {
        "text_config": TEXT | {"head_dim": 8, "sliding_window": 16, "num_hidden_layers": 5},
        "vision_config": VISION | {"pos_emb_height": 2, "pos_emb_width": 2},
        "out_hidden_size": 64,
        "projector_hidden_size": 16,
        "image_token_id": 300,
        "video_token_id": 299,
    },
    "Qwen2_5_VL": {"text_config": TEXT | {"rope_parameters": MROPE}, "vision_config": QWEN_VISION},
    "Qwen3_5": {
        "text_config": TEXT | DELTA | {"rope_parameters": MROPE | {"mrope_interleaved": True}},
        "vision_config": QWEN_VISION | {"num_position_embeddings": 4},
    },
    "Qwen3_5Moe": {
        "text_config": TEXT | DELTA | DELTA_EXPERTS | {"rope_parameters": MROPE | {"mrope_interleaved": True}},
        "vision_config": QWEN_VISION | {"num_position_embeddings": 4},
    },
    "Qwen3VL": {
        "text_config": TEXT | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}},
        "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 4},
    },
    "Qwen3VLMoe": {
        "text_config": TEXT | EXPERTS | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}},
        "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 4},
    },
    "Llama4": {
        "text_config": TEXT
        | {
            "head_dim": 8,
            "num_local_experts": 3,
            "intermediate_size_mlp": 56,
            "attention_chunk_size": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        "vision_config": VISION | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
    },
    "Glm4vMoe": {
        "text_config": TEXT | ROUTED | {"head_dim": 16, "rope_parameters": MROPE | {"partial_rotary_factor": 0.5}},
        "vision_config": QWEN_VISION,
    },
    "Qwen2Audio": {"text_config": TEXT | {"model_type": "qwen2"}, "audio_config": AUDIO},
    "Qwen2VL": {"text_config": TEXT | {"rope_parameters": MROPE}, "vision_config": QWEN2_VISION},
    "Blip2": {
        "text_config": {
            "model_type": "opt",
            "vocab_size": 301,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "ffn_dim": 80,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 48,
        },
        "vision_config": VISION,
        "qformer_config": VISION | {"encoder_hidden_size": 16},
        "image_token_index": 300,
    },
    "Emu3": {
        "text_config": TEXT | {"bos_token_id": 1},
        "vq_config": {"codebook_size": 8, "hidden_size": 32, "base_channels": 32, "channel_multiplier": [1]},
        "vocabulary_map": {"<image>": 300},
    },
    "Exaone4_5_": {
        "text_config": TEXT | {"model_type": "exaone4", "sliding_window": 16, "num_hidden_layers": 5},
        "vision_config": QWEN_VISION | {"num_key_value_heads": 2},
    },
    "Glm4v": {
        "text_config": TEXT | TALL | {"rope_parameters": MROPE | {"partial_rotary_factor": 0.5}},
        "vision_config": QWEN_VISION,
    },
    "GlmOcr": {
        "text_config": TEXT | {"head_dim": 16, "rope_parameters": MROPE | {"mrope_section": [4, 2, 2]}},
        "vision_config": QWEN_VISION,
    },
    "GraniteSpeech": SPEECH,
    "GraniteSpeechPlus": SPEECH
    | {
        "encoder_config": SPEECH["encoder_config"] | {"cat_hidden_layers": [0]},
        "projector_config": SPEECH["projector_config"] | {"encoder_hidden_size": 32},
    },
    "MiniCPMV4_6": {
        "text_config": TEXT | DELTA | {"model_type": "qwen3_5_text", "rope_parameters": MROPE},
        "vision_config": VISION | {"num_attention_heads": 2},
        "image_token_id": 300,
    },
    "PaddleOCRVL": {
        "text_config": TEXT | {"head_dim": 8, "rope_parameters": MROPE},
        "vision_config": VISION,
    },
    "Qwen2_5OmniThinker": {
        "text_config": TEXT | {"rope_parameters": MROPE},
        "vision_config": QWEN_VISION,
        "audio_config": AUDIO | {"output_dim": 48},
    },
    "Qwen3OmniMoeThinker": {
        "text_config": TEXT | EXPERTS | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}},
        "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 4},
        "audio_config": AUDIO | {"output_dim": 48, "downsample_hidden_size": 8},
    },
    "Qwen3ASR": {
        "text_config": TEXT | {"model_type": "qwen3", "head_dim": 8},
        "audio_config": AUDIO | {"output_dim": 48, "downsample_hidden_size": 8},
    },
    "SmolVLM": {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION, "image_token_id": 300},
}


def save(path, kind):
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Config")(**MODELS[kind])
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(made).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2)
    model.save_pretrained(path)
    if kind.endswith("Thinker"):
        wrap(path, f"{kind.removesuffix('Thinker')}ForConditionalGeneration")
    return model.language_model if kind == "Blip2" else model  # which wants an image, whatever the text


def wrap(path, architecture):
    """Makes the checkpoint part of a model that also speaks."""
    tensors = load_file(path / "model.safetensors")
    save_file({f"thinker.{name}": values for name, values in tensors.items()}, path / "model.safetensors")
    edit_config(path, architectures=[architecture], thinker_config=json.loads((path / "config.json").read_text()))
    edit_config(path, text_config=None, model_type="omni")


def logits(path):
    checkpoint = open_model(path)
    model = load_declaration(checkpoint.config, path)
    graph = model.build()
    return logits_of(make_native(graph, bind(graph.weights, checkpoint, model.ignored)), TOKENS)


@pytest.mark.parametrize("kind", MODELS)
def test_a_text_s_logits_are_those_of_the_whole(tmp_path, kind):
    model = save(tmp_path, kind)
    assert error(logits(tmp_path), transformers_logits(model, TOKENS)) < 1e-4


# Models that only their authors' code has: the text part; where its configuration is, or the whole's model_type where
# its fields are the whole's; its names, as vLLM maps them; tensors beside it.
IN_LANGUAGE_MODEL = {r"^": "language_model."}
IN_LLM = {r"^": "llm."}
IN_MODEL = {r"^model\.": "model.language_model."}
REMOTE = {
    "DotsOCRForCausalLM": ("Qwen2", "dots_ocr", {}, ["vision_tower.blocks.0.attn.qkv"]),
    "H2OVLChatModel": ("Mistral", "llm_config", IN_LANGUAGE_MODEL, ["vision_model.encoder.0", "mlp1.0"]),
    "InternVLChatModel": ("InternLM2", "llm_config", IN_LANGUAGE_MODEL, ["vision_model.embeddings.x", "mlp1.0"]),
    "InternS1ForConditionalGeneration": ("Qwen3", "text_config", IN_MODEL, ["model.vision_tower.x"]),
    "IsaacForConditionalGeneration": (
        "Qwen3",
        "isaac",
        {r"^model\.": "model.text_model."},
        ["model.vision_embedding.0.x"],
    ),
    "KananaVForConditionalGeneration": (
        "Llama",
        "text_config",
        IN_LANGUAGE_MODEL,
        ["vision_model.x", "abstractor_projector.x"],
    ),
    "KeyeForConditionalGeneration": ("Qwen3", "Keye", {}, ["visual.vision_model.x", "mlp_AR.linear_1"]),
    "KimiK25ForConditionalGeneration": (
        "DeepseekV3",
        "text_config",
        IN_LANGUAGE_MODEL,
        ["vision_tower.x", "mm_projector.proj.0"],
    ),
    "MiDashengLMModel": ("Qwen2", "text_config", {r"^": "decoder."}, ["audio_encoder.x", "audio_projector.net.0"]),
    "MossAudioModel": (
        "Qwen3",
        "language_config",
        {r"^model\.": "language_model."},
        ["audio_encoder.x", "audio_adapter.x", "deepstack_audio_merger_list.0.x"],
    ),
    "NVLM_D": ("Qwen2", "llm_config", IN_LANGUAGE_MODEL, ["vision_model.x", "mlp1.0"]),
    "Ovis": ("Gemma2", "llm_config", IN_LLM, ["visual_tokenizer.backbone.x", "vte"]),
    "Ovis2_6_MoeForCausalLM": ("Qwen3Moe", "llm_config", IN_LLM, ["visual_tokenizer.vit.x", "vte"]),
    "Phi3VForCausalLM": ("Phi-3", "phi3_v", {}, ["model.vision_embed_tokens.img_processor.x"]),
    "Phi4MMForCausalLM": (
        "Phi-3",
        "phi4mm",
        {r"_proj\.": "_proj.base_layer."},
        ["model.layers.0.mlp.down_proj.lora_A.vision", "model.embed_tokens_extend.image_embed.x"],
    ),
    "Qwen3ASRForConditionalGeneration": (
        "Qwen3",
        "thinker_config.text_config",
        {r"^": "thinker."},
        ["thinker.audio_tower.x"],
    ),
}


@pytest.mark.parametrize("architecture", REMOTE)
def test_so_is_what_only_its_authors_have_code_of(tmp_path, architecture):
    kind, place, names, others = REMOTE[architecture]
    family = FAMILIES[kind] if kind in FAMILIES else Family(kind)
    family.save(tmp_path)
    expected = logits(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    rename(tensors, names)
    tensors |= {f"{name}.weight": torch.ones(2, 2) for name in others}
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = {"InternLM2": "internlm2"}.get(kind, config["model_type"])
    if place.endswith("_config"):
        for field in reversed(place.split(".")):
            config = {field: config}
    else:
        config["model_type"] = place
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
    np.testing.assert_array_equal(logits(tmp_path), expected)


def test_a_text_part_that_is_not_known_is_refused_with_the_nearest(tmp_path):
    save(tmp_path, "Llava")
    edit_config(tmp_path, text_config=lambda text: text | {"model_type": "qwen2_xl"})
    with pytest.raises(ModelLoadError, match=r"text_config.model_type: 'qwen2_xl' is not known; .* qwen2") as caught:
        open_model(tmp_path)
    assert "\n" not in str(caught.value)
