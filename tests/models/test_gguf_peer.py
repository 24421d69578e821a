"""Tiny GGUF files of every family, beside llama.cpp's own logits, or vector of a text, of the same file.

    OCTAVO_TEST_LLAMACPP=PYTHON pytest tests/models/test_gguf_peer.py

PYTHON is an interpreter that has llama-cpp-python.
"""

import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from encoders import ENCODERS, rows_of, word_pieces
from expert_families import MIXTURES
from families import FAMILIES, save_gguf
from harness import error, logits_of, make_native, random_tokens
from hybrid_families import HYBRIDS
from octavo import LLM, PoolingParams
from octavo.graph.ops.pointwise import ACTIVATIONS, GLUS
from octavo.models import load_declaration, open_model
from octavo.weights.bind import bind
from reference import reference_logits

PEER = os.environ.get("OCTAVO_TEST_LLAMACPP")
FAMILIES = FAMILIES | MIXTURES | HYBRIDS
WITH_GGUF = {name: family for name, family in FAMILIES.items() if family.gguf}
TOKENS = random_tokens(96, vocab=301)
OTHERWISE = {  # what llama.cpp computes in another way than the model's authors
    "Baichuan": "it has positions in models of 32 and of 40 layers alone",
    "gpt-oss": "it rounds YaRN's limits to whole pairs; with plain frequencies logits are the same within 1e-6",
    "DeepSeek V2": "it no longer reads files with kv_b in one",
    "DeepSeek-MoE": "it never normalises what the experts of this architecture count for",
    "EXAONE 4, windows": "it has windows in models of 64 layers alone",
    "Phi-mini-MoE": "it has a softmax over the experts that are chosen, not the sparse mixer of the authors",
    "Llama Nemotron": "it leaves out the attention of layers without an MLP",
    "StarCoder2": "it has no windows in this architecture",
}
IN_HALVES = {"Gemma 2", "Gemma 4 26B-A4B", "Gemma 4 E2B"}  # where it matters that its GELU is a table in float16
EQUAL_WIDTHS = {"linear_value_head_dim": 12}, {"ssm.inner_size": 48}
# What it wants besides: configurations in which widths are equal that it has one number for, and keys.
ADJUSTED: dict[str, tuple[dict, dict]] = {
    "AFMoE": ({}, {"expert_weights_norm": True, "expert_weights_scale": 1.0}),
    "ERNIE 4.5 MoE": ({"moe_layer_interval": 1}, {"interleave_moe_layer_step": 1}),
    "Hunyuan MoE": ({}, {"expert_feed_forward_length": 80}),
    "K-EXAONE": ({"num_shared_experts": 1}, {"expert_shared_count": 1}),
    "LFM2": ({}, {"attention.layer_norm_rms_epsilon": 1e-5}),
    "LFM2-MoE": ({}, {"attention.layer_norm_rms_epsilon": 1e-5}),
    "Ling 2": ({"head_dim": 8}, {"rope.dimension_count": 4}),
    "MiniMax-M2": ({}, {"expert_feed_forward_length": 80}),
    "OLMoE 1B-7B": ({"num_key_value_heads": 6}, {}),
    "Qwen3-Next": EQUAL_WIDTHS,
    "Qwen3.5": EQUAL_WIDTHS,
    "Qwen3.5-MoE": (EQUAL_WIDTHS[0], {**EQUAL_WIDTHS[1], "rope.dimension_sections": [1, 1, 1, 0]}),
    "dots.llm1": ({"num_key_value_heads": 6}, {}),
}
PROGRAM = """
import sys
import llama_cpp as L
import numpy as np

path, tokens, embeds = sys.argv[1], [int(token) for token in sys.argv[2].split()], sys.argv[3] == "vector"
L.llama_backend_init()
model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
params = L.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 256
params.type_k = params.type_v = L.GGML_TYPE_F32
params.flash_attn_type = 0
params.swa_full = True
params.embeddings = embeds
context = L.llama_init_from_model(model, params)
vocabulary = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
batch = L.llama_batch_init(len(tokens), 0, 1)
batch.n_tokens = len(tokens)
for i, token in enumerate(tokens):
    batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
    batch.seq_id[i][0] = 0
assert L.llama_decode(context, batch) == 0
if embeds:
    rows = [np.ctypeslib.as_array(L.llama_get_embeddings_seq(context, 0), (L.llama_model_n_embd(model),))]
else:
    rows = [np.ctypeslib.as_array(L.llama_get_logits_ith(context, i), (vocabulary,)) for i in range(len(tokens))]
np.save(path + ".npy", np.stack(rows))
"""


def of_llama_cpp(path, tokens, wanted):
    command = [PEER, "-c", PROGRAM, str(path), " ".join(map(str, tokens)), wanted]
    peer = subprocess.run(command, capture_output=True, text=True)
    assert peer.returncode == 0, peer.stderr[-2000:]
    return np.load(f"{path}.npy")


@pytest.mark.skipif(not PEER, reason="OCTAVO_TEST_LLAMACPP names no interpreter with llama-cpp-python")
@pytest.mark.parametrize("name", sorted(WITH_GGUF.keys() - OTHERWISE))
def test_logits_are_llama_cpp_s(tmp_path, monkeypatch, name):
    config, keys = ADJUSTED.get(name, ({}, {}))
    family = FAMILIES[name]
    family = replace(family, config={**family.config, **config}, keys={**family.keys, **keys})
    path = tmp_path / "m.gguf"
    save_gguf(family, family.save(tmp_path), tmp_path, path)
    expected = of_llama_cpp(path, TOKENS, "logits")
    checkpoint = open_model(path)
    model = load_declaration(checkpoint.config, path)
    graph = model.build()
    tensors = bind(graph.weights, checkpoint, model.ignored)
    if name in IN_HALVES:  # the reference can do the same; other tests compare it with the executors
        monkeypatch.setitem(ACTIVATIONS, "gelu_tanh", in_halves(ACTIVATIONS["gelu_tanh"]))
        monkeypatch.setitem(GLUS, "gelu_tanh", lambda gate, up: ACTIVATIONS["gelu_tanh"](gate) * up)
        found = reference_logits(graph, tensors, TOKENS)
    else:
        found = logits_of(make_native(graph, tensors), TOKENS)
    assert error(found, expected) < 1e-3


@pytest.mark.skipif(not PEER, reason="OCTAVO_TEST_LLAMACPP names no interpreter with llama-cpp-python")
@pytest.mark.parametrize("name", sorted(name for name, family in ENCODERS.items() if family.gguf))
def test_vectors_are_llama_cpp_s(tmp_path, name):
    family = ENCODERS[name]
    family = replace(family, keys={**family.keys, "pooling_type": 1})
    model, path = family.save(tmp_path), tmp_path / "m.gguf"
    words = word_pieces() | {"tokenizer.ggml.token_type_count": getattr(model.config, "type_vocab_size", 2)}
    save_gguf(family, model, tmp_path, path, tokenizer=words)
    tokens = [token for token in TOKENS if token > 5]
    expected = of_llama_cpp(path, tokens, "vector")
    found = LLM(str(path), dtype="float32").embed(
        {"prompt_token_ids": tokens}, pooling_params=PoolingParams(normalize=False)
    )
    vector = np.array([found[0].outputs.embedding])
    assert error(vector, rows_of(model, tokens).mean(0, keepdims=True)) < 1e-4
    assert error(vector, expected) < 1e-3


def in_halves(function):
    """A function whose argument and result are rounded to float16, but for what is beyond 10."""

    def rounded(x):
        found = function(x.astype(np.float16).astype(np.float32)).astype(np.float16).astype(np.float32)
        return np.where(np.abs(x) < 10, found, np.maximum(x, 0))

    return rounded
