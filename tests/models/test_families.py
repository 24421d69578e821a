"""Logits of tiny random checkpoints of every family, beside transformers' on the same weights; and of GGUF files."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import transformers_logits
from expert_families import MIXTURES
from families import FAMILIES, save_gguf
from harness import error, logits_of, make_native, make_torch, random_tokens
from hybrid_families import HYBRIDS
from octavo.errors import ModelLoadError
from octavo.graph.node import Node
from octavo.models import declaration, declarations, load_declaration, open_model
from octavo.models.base import kind_of
from octavo.models.multimodal import ARCHITECTURES
from octavo.weights.bind import bind
from reference import reference_logits

DATA = Path(__file__).parents[1] / "data"
TOKENS = random_tokens(96, vocab=301)
FAMILIES = FAMILIES | MIXTURES | HYBRIDS
WITH_GGUF = {name: family for name, family in FAMILIES.items() if family.gguf}


def opened(path):
    """The graph and the tensors of a checkpoint."""
    checkpoint = open_model(path)
    model = load_declaration(checkpoint.config, path)
    graph = model.build()
    assert listed(model.build()) == listed(graph)  # a second one is the same
    return graph, bind(graph.weights, checkpoint, model.ignored)


def listed(graph):
    """What a graph is made of, with numbers in place of nodes."""
    numbers = {node: i for i, node in enumerate(graph.nodes)}
    values = [[getattr(node, part.name) for part in fields(node)] for node in graph.nodes]
    return [
        (type(node), [numbers[x] for x in node.inputs], [value for value in own if not isinstance(value, Node)])
        for node, own in zip(graph.nodes, values, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_logits_are_transformers_s_whatever_runs_the_graph(tmp_path, family):
    expected = transformers_logits(family.save(tmp_path), TOKENS)
    graph, tensors = opened(tmp_path)
    assert kind_of(graph) in (declaration(open_model(tmp_path).config, tmp_path).kind, "dense")
    assert error(reference_logits(graph, tensors, TOKENS), expected) < 1e-4
    native = make_native(graph, tensors)
    found = logits_of(native, TOKENS)
    assert error(found, expected) < 1e-4
    np.testing.assert_array_equal(logits_of(native, TOKENS, [80, 7, 1]), found)
    assert error(logits_of(make_torch(graph, tensors), TOKENS, [80, 7, 1]), expected) < 1e-4


@pytest.mark.parametrize("family", WITH_GGUF.values(), ids=WITH_GGUF)
def test_a_gguf_file_is_the_checkpoint_that_it_was_made_from(tmp_path, family):
    model = family.save(tmp_path)
    save_gguf(family, model, tmp_path, tmp_path / "m.gguf")
    graph, tensors = opened(tmp_path / "m.gguf")
    assert error(logits_of(make_native(graph, tensors), TOKENS), transformers_logits(model, TOKENS)) < 1e-4


def test_a_file_that_does_not_say_what_it_means_is_refused(tmp_path):
    family = FAMILIES["MiniCPM"]
    old = replace(family, keys={key: value for key, value in family.keys.items() if key != "residual_scale"})
    save_gguf(old, old.save(tmp_path), tmp_path, tmp_path / "m.gguf")
    with pytest.raises(ModelLoadError, match=r"m.gguf: minicpm.residual_scale: is missing"):
        open_model(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("Gemma 4", "attention.head_count_kv", [2, 2, 2, 2, 2]),
        ("Gemma 4", "attention.head_count_kv", [0] * 6),
        ("Gemma 4", "attention.head_count_kv", [2, 2, 2, 2, 2, -1]),
        ("Gemma 4", "attention.head_count", [6] * 6),
        ("Gemma 4", "attention.value_length_swa", 32),
        ("Gemma 4", "rope.dimension_count_swa", 8),
        ("Llama Nemotron", "attention.head_count", [6, 6, 6]),
    ],
)
def test_sizes_of_layers_that_contradict_each_other_are_refused(tmp_path, name, key, value):
    family = FAMILIES[name]
    family = replace(family, keys=family.keys | {key: value})
    save_gguf(family, family.save(tmp_path), tmp_path, tmp_path / "m.gguf")
    with pytest.raises(ModelLoadError, match=rf"m.gguf: {family.gguf}.{key}: |m.gguf: heads_of_layers: "):
        load_declaration(open_model(tmp_path / "m.gguf").config, tmp_path / "m.gguf")


def test_a_great_part_of_vllm_s_names_is_known(record_property):
    """Of the names that vLLM 0.33 has, without those of drafts and of its own backends."""
    theirs = set((DATA / "vllm_architectures.txt").read_text().split())
    declared = theirs & {name for model in declarations() for name in model.architectures}
    as_text = declared | theirs & set(ARCHITECTURES)
    print(f"{len(declared)} of {len(theirs)} names are declared, {len(as_text)} run, with those of text parts")
    record_property("declared", len(declared))
    record_property("run", len(as_text))
    assert len(declared) >= 100
    assert len(as_text) >= 150


def test_no_name_is_declared_twice():
    for names in (
        [name for model in declarations() for name in model.architectures],
        [kind for model in declarations() for kind in model.model_types],
        [family.architecture for model in declarations() for family in model.gguf],
    ):
        assert len(set(names)) == len(names)
