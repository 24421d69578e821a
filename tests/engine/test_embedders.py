"""Decoders as they are published to embed: folders with modules.json, and tokenizers that end a text by a token.

That token's row is the text's vector.
"""

import json

import numpy as np
import pytest

from checkpoints import edit_config, save_checkpoint
from encoders import rows_of, save_modules, save_words
from octavo import LLM
from octavo.errors import RequestError

TEXTS = ["the cat sat on the mat", "dog", "river bank money bank " * 12]
END = 3


def ends_by_json(path):
    """tokenizer.json puts the token behind a text."""
    edit_tokenizer(path, [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}])


def ends_by_flag(path):
    """tokenizer.json puts nothing anywhere; the flags of tokenizer_config.json say what is to be there."""
    edit_tokenizer(path, None)
    flags = {"add_bos_token": True, "add_eos_token": True, "bos_token": "[CLS]", "eos_token": "[SEP]"}
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **flags}))


def edit_tokenizer(path, single):
    file = path / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    if single is None:
        tokenizer["post_processor"] = None
    else:
        tokenizer["post_processor"]["single"] = single
    file.write_text(json.dumps(tokenizer))


EMBEDDERS = {  # their family, what their configurations say, the architecture that these name, their tokenizers
    "e5-mistral": ("Mistral", {"sliding_window": 20}, "MistralModel", ends_by_flag),
    "gte-Qwen2": ("Qwen2", {"is_causal": False}, "Qwen2ForCausalLM", ends_by_json),
    "gte-Qwen2 without logits": ("Qwen2", {"is_causal": False}, "Qwen2Model", ends_by_json),
    "Qwen3-Embedding": ("Qwen3", {}, "Qwen3ForCausalLM", ends_by_json),
}


@pytest.mark.parametrize("executor", ["native", "torch"])
@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_row_of_the_last_token_is_the_text_s(tmp_path, name, executor):
    family, config, architecture, ends = EMBEDDERS[name]
    model = save_checkpoint(tmp_path, family, vocab_size=301, **config)
    if architecture.endswith("Model"):
        model.model.save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=[architecture])
    save_words(tmp_path)
    ends(tmp_path)
    save_modules(tmp_path, mode="lasttoken", prompts={"prompts": {"query": "query : "}})
    llm = LLM(str(tmp_path), dtype="float32", executor=executor, max_num_batched_tokens=128)
    for prompt in ("", "query : "):
        ids = [llm.model.tokenizer.encode(prompt + text) for text in TEXTS]
        assert {one[-1] for one in ids} == {END}
        rows = [rows_of(model.model, one) for one in ids]
        found = llm.embed([prompt + text for text in TEXTS], use_tqdm=False)
        for output, own in zip(found, rows, strict=True):
            np.testing.assert_allclose(output.outputs.embedding, own[-1] / np.linalg.norm(own[-1]), atol=1e-4)
    assert llm.model.graph.keeps_nothing == ("is_causal" in config)


def test_tokens_that_see_each_other_in_both_directions_generate_nothing(tmp_path):
    save_checkpoint(tmp_path, "Qwen2", vocab_size=301, is_causal=False)
    save_words(tmp_path)
    llm = LLM(str(tmp_path), dtype="float32", task="embed")
    with pytest.raises(RequestError, match="embeds texts, and generates none"):
        llm.generate(TEXTS[0], use_tqdm=False)
