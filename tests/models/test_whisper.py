"""Tiny random Whisper checkpoints against transformers: encoder, decoder, and what a step may do to them."""

import numpy as np
import pytest
import torch

import harness
from octavo.engine.steps import make_step
from octavo.executor.native.lowering import lower
from octavo.graph.ops.attention import StoreSource
from octavo.models import load_declaration
from octavo.request import BlockTable, Chunk, Prompt, Request, Sequence, Source, StepPlan
from octavo.sampling_params import SamplingParams
from reference import reference_logits, reference_sources

POSITIONS, MELS, VOCAB = 50, 20, 99
VARIANTS = {
    "plain": {},
    "deep encoder": {"encoder_layers": 3, "decoder_layers": 1},
    "odd heads": {"d_model": 72, "encoder_attention_heads": 3, "decoder_attention_heads": 3},
    "many mels": {"num_mel_bins": 128},
}


def make(**changes):
    """A random model as transformers has it, and its declaration."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    options = {
        "vocab_size": VOCAB,
        "num_mel_bins": MELS,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 80,
        "d_model": 64,
        "max_source_positions": POSITIONS,
        "max_target_positions": 40,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
        "init_std": 0.2,
        **changes,
    }
    model = WhisperForConditionalGeneration(WhisperConfig(**options)).eval()
    for parameter in model.parameters():  # biases and norms must count too
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    config = model.config.to_dict() | {"architectures": ["WhisperForConditionalGeneration"]}
    tensors = {name: harness.stored(name, value.numpy()) for name, value in model.state_dict().items()}
    return model, load_declaration(config, "config.json"), tensors


def features_of(declaration, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2 * POSITIONS, declaration.num_mel_bins)).astype(np.float32)


def request_of(features, tokens, source_blocks, blocks):
    source = Source(features, POSITIONS)
    source.place.tables = [BlockTable(source_blocks)]
    sequence = Sequence(0, list(tokens), len(tokens), [BlockTable(blocks)])
    params = SamplingParams(prompt_logprobs=0)
    return Request("r", Prompt(None, source, tokens), params, needs_all_rows=True, sequences=[sequence])


def encode(executor, request):
    source = request.prompt.source
    while not source.is_encoded:
        encoded = executor.run(make_step(StepPlan([], encode=source))).encoded
        source.num_slices_done, source.is_encoded = encoded.num_slices_done, encoded.is_finished


def logits_of(executor, request, chunks=(100,)):
    """The logits of the request's tokens, computed in chunks."""
    sequence, found = request.sequences[0], []
    for count in chunks:
        count = min(count, sequence.num_pending)
        if count:
            found += harness.run(executor, [Chunk(request, sequence, sequence.num_computed, count)])
            sequence.num_computed += count
    return np.concatenate(found)


def looked_at(executor, request, heads):
    (sequence,) = request.sequences
    whole = StepPlan([Chunk(request, sequence, 0, len(sequence.tokens))])
    return executor.cross_attention(make_step(whole), heads)


@pytest.fixture(params=["native", "torch"])
def make_speech_executor(request):
    make_it = harness.make_native if request.param == "native" else harness.make_torch
    return lambda declaration, tensors, **options: make_it(
        declaration.build(), tensors, encoder=declaration.build_encoder(), source_positions=POSITIONS, **options
    )


CACHES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "int8")]
TOKENS = [3, 17, 55, 4, 98, 23, 8, 61, 12, 33]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_transformers(variant, make_speech_executor):
    model, declaration, tensors = make(**VARIANTS[variant])
    features = features_of(declaration)
    with torch.inference_mode():
        expected = model(
            input_features=torch.from_numpy(features.T[None].copy()), decoder_input_ids=torch.tensor([TOKENS])
        ).logits[0]
    executor = make_speech_executor(declaration, tensors)
    request = request_of(features, TOKENS, [9, 3, 5, 7], [1])
    encode(executor, request)
    found = logits_of(executor, request)
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * expected.abs().max()


def test_the_reference_is_that_of_transformers():
    model, declaration, tensors = make()
    features = features_of(declaration)
    graph, encoder = declaration.build(), declaration.build_encoder()
    with torch.inference_mode():
        expected = model(
            input_features=torch.from_numpy(features.T[None].copy()), decoder_input_ids=torch.tensor([TOKENS])
        ).logits[0]
    sources = reference_sources(encoder, tensors, features)
    assert len(sources) == sum(isinstance(node, StoreSource) for node in encoder.nodes) == 2
    found = reference_logits(graph, tensors, TOKENS, sources)
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("dtype", "cache"), CACHES)
def test_neither_chunks_nor_neighbours_nor_slices_change_a_bit(dtype, cache):
    """On the native executor."""
    _, declaration, tensors = make()
    graph, encoder = declaration.build(), declaration.build_encoder()
    options = {"encoder": encoder, "source_positions": POSITIONS, "cache_dtype": cache}
    executor = harness.make_native(graph, tensors, dtype, **options)
    alone = request_of(features_of(declaration), TOKENS, [0, 1, 2, 3], [4])
    encode(executor, alone)
    expected = logits_of(executor, alone)

    slices = executor._encoder.slices
    executor._encoder.slices = executor_slices = lower(encoder).slices(POSITIONS, 1e4)
    assert len(slices) == 1 < 20 < len(executor_slices)
    again = request_of(features_of(declaration), TOKENS, [20, 11, 12, 13], [14])
    encode(executor, again)
    other = request_of(features_of(declaration, seed=1), TOKENS[:6], [30, 31, 32, 33], [34])
    encode(executor, other)
    assert (logits_of(executor, again, chunks=(1, 3, 100)) == expected).all()

    again.sequences[0].num_computed = 9
    _, found = harness.run(executor, [Chunk(other, other.sequences[0], 0, 6), Chunk(again, again.sequences[0], 9, 1)])
    assert (found[0] == expected[9]).all()


@pytest.mark.parametrize("variant", ["plain", "odd heads"])
def test_with_an_int8_cache_logits_and_what_heads_look_at_are_nearly_the_same(variant):
    _, declaration, tensors = make(**VARIANTS[variant])
    graph, encoder = declaration.build(), declaration.build_encoder()
    found = []
    for cache in ("float32", "int8"):
        options = {"encoder": encoder, "source_positions": POSITIONS, "cache_dtype": cache}
        executor = harness.make_native(graph, tensors, **options)
        request = request_of(features_of(declaration), TOKENS, [9, 3, 5, 7], [1])
        encode(executor, request)
        found.append((logits_of(executor, request), looked_at(executor, request, [(1, 2), (0, 0)])))
    (exact, weights), (logits, rounded_weights) = found
    assert 1e-5 < harness.error(logits, exact) < 3e-2
    assert 1e-6 < np.abs(rounded_weights - weights).max() < 1e-2


def test_fusing_changes_no_bit():
    _, declaration, tensors = make()
    found = []
    for fuse in (False, True):
        executor = harness.make_native(
            declaration.build(),
            tensors,
            encoder=declaration.build_encoder(),
            source_positions=POSITIONS,
            fuse=fuse,
        )
        request = request_of(features_of(declaration), TOKENS, [0, 1, 2, 3], [4])
        encode(executor, request)
        found.append(logits_of(executor, request))
    assert (found[0] == found[1]).all()


@pytest.mark.parametrize("variant", ["plain", "odd heads"])
@pytest.mark.parametrize("max_tokens", [2, 3, 256])
def test_what_heads_look_at_is_what_they_look_at_in_transformers(variant, max_tokens, make_speech_executor):
    model, declaration, tensors = make(**VARIANTS[variant])
    features = features_of(declaration)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = model(
            input_features=torch.from_numpy(features.T[None].copy()),
            decoder_input_ids=torch.tensor([TOKENS]),
            output_attentions=True,
        ).cross_attentions
    executor = make_speech_executor(declaration, tensors, max_tokens=max_tokens)
    request = request_of(features, TOKENS, [9, 3, 5, 7], [1])
    encode(executor, request)
    heads = [(1, 2), (0, 0), (1, 0)]
    found = looked_at(executor, request, heads)
    assert found.shape == (3, len(TOKENS), POSITIONS)
    for weights, (layer, head) in zip(found, heads, strict=True):
        assert np.abs(weights - expected[layer][0, head].numpy()).max() < 1e-4


@pytest.mark.parametrize(("dtype", "cache"), CACHES)
def test_small_steps_change_no_bit_of_what_heads_look_at(dtype, cache):
    """On the native executor."""
    _, declaration, tensors = make()
    found = []
    for max_tokens in (256, 8, 3, 1):
        executor = harness.make_native(
            declaration.build(),
            tensors,
            dtype,
            cache_dtype=cache,
            encoder=declaration.build_encoder(),
            source_positions=POSITIONS,
            max_tokens=max_tokens,
        )
        request = request_of(features_of(declaration), TOKENS, [9, 3, 5, 7], [1])
        encode(executor, request)
        found.append(looked_at(executor, request, [(1, 2), (0, 0)]))
    assert all((other == found[0]).all() for other in found[1:])
