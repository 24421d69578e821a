"""Models that see or hear, loaded as the models of text that they contain."""

import pytest
import torch
import transformers

from checkpoints import SIZES, edit_config, transformers_logits
from expert_families import EXPERTS, ROUTED
from harness import error, logits_of, make_native, random_tokens
from octavo.errors import ModelLoadError
from octavo.models import load_declaration, open_model
from octavo.weights.bind import bind

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
    return model


def logits(path):
    checkpoint = open_model(path)
    model = load_declaration(checkpoint.config, path)
    graph = model.build()
    return logits_of(make_native(graph, bind(graph.weights, checkpoint, model.ignored)), TOKENS)


@pytest.mark.parametrize("kind", MODELS)
def test_a_text_s_logits_are_those_of_the_whole(tmp_path, kind):
    model = save(tmp_path, kind)
    assert error(logits(tmp_path), transformers_logits(model, TOKENS)) < 1e-4


def test_a_text_part_that_is_not_known_is_refused_with_the_nearest(tmp_path):
    save(tmp_path, "Llava")
    edit_config(tmp_path, text_config=lambda text: text | {"model_type": "qwen2_xl"})
    with pytest.raises(ModelLoadError, match=r"text_config.model_type: 'qwen2_xl' is not known; .* qwen2") as caught:
        open_model(tmp_path)
    assert "\n" not in str(caught.value)
