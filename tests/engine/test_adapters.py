"""Jina v3's adapters: those of one task are in the weights, and its prompt is before every text."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from encoders import ENCODERS, rows_of, save_modules, save_words
from octavo import LLM
from octavo.errors import ConfigError, ModelLoadError, ParameterError

TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
PROMPTS = {"retrieval.query": "query : ", "retrieval.passage": "passage : ", "text-matching": ""}
TEXTS = ["the cat sat on the mat", "dog", "river bank money bank"]
RANK, ALPHA = 4, 6


def save_adapters(path, count=5):
    """A checkpoint as Jina's own code has it; returns the weights with each task's adapters."""
    ENCODERS["Jina v3"].save(path)
    rng, file = np.random.default_rng(0), path / "model.safetensors"
    stored, merged = {}, {task: {} for task in TASKS}
    for name, weight in load_file(file).items():
        for tensors in merged.values():
            tensors[name] = weight
        if weight.ndim < 2:
            stored[f"roberta.{name}"] = weight
            continue
        rows, columns = weight.shape
        is_table = "embeddings" in name
        shapes = [(rows, RANK), (RANK, columns)] if is_table else [(RANK, columns), (rows, RANK)]
        a, b = (0.3 * rng.standard_normal((count, *shape), np.float32) for shape in shapes)
        at = f"roberta.{name.removesuffix('.weight')}.parametrizations.weight"
        stored |= {f"{at}.original": weight, f"{at}.0.lora_A": a, f"{at}.0.lora_B": b}
        for i, task in enumerate(TASKS[:count]):
            merged[task][name] = weight + ALPHA / RANK * (a[i] @ b[i] if is_table else b[i] @ a[i])
    save_file(stored, file)
    config = json.loads((path / "config.json").read_text())
    config |= {"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "position_embedding_type": "rotary"}
    config |= {"rotary_emb_base": 20000.0, "rope_parameters": None, "emb_pooler": "mean", "use_flash_attn": True}
    config |= {"lora_adaptations": TASKS, "lora_rank": RANK, "lora_alpha": ALPHA}
    (path / "config.json").write_text(json.dumps(config))
    save_words(path)
    return merged


@pytest.mark.parametrize("task", [None, *TASKS])
def test_a_task_s_adapters_are_in_the_weights(tmp_path, task):
    path, chosen = tmp_path / "adapted", task or "text-matching"
    path.mkdir()
    merged = save_adapters(path)[chosen]
    save_modules(path, prompts={"prompts": PROMPTS})
    model = ENCODERS["Jina v3"].save(tmp_path / "merged")
    save_file(merged, tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    model = type(model).from_pretrained(tmp_path / "merged")
    llm = LLM(str(path), dtype="float32", **({"task": task} if task else {}))
    ids = [llm.model.tokenizer.encode(PROMPTS.get(chosen, "") + text) for text in TEXTS]
    expected = np.array([rows_of(model, one).mean(0) for one in ids])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = llm.embed(TEXTS, use_tqdm=False)
    np.testing.assert_allclose([output.outputs.embedding for output in found], expected, atol=1e-4)
    other = "separation" if chosen != "separation" else "classification"
    with pytest.raises(ParameterError, match=rf"prompt_name.*one of {chosen}"):
        llm.model.pooler.prompted(TEXTS[0], other)


def test_what_is_not_there_is_refused(tmp_path):
    for name in ("few", "plain"):
        (tmp_path / name).mkdir()
    save_adapters(tmp_path / "few", count=3)
    with pytest.raises(ModelLoadError, match="needs adapters of 5 tasks"):
        LLM(str(tmp_path / "few"))
    ENCODERS["BERT"].save(tmp_path / "plain")
    save_words(tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"separation.*this model has adapters for no task"):
        LLM(str(tmp_path / "plain"), task="separation")
    with pytest.raises(ConfigError, match=r"task.*clustering"):
        LLM(str(tmp_path / "plain"), task="clustering")
