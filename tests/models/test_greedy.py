"""Tokens that the engine generates from tiny checkpoints of every kind of model, beside those of transformers."""

import pytest
import torch

from checkpoints import save_tokenizer
from expert_families import MIXTURES
from families import FAMILIES
from hybrid_families import HYBRIDS
from octavo import LLM, SamplingParams

FAMILIES = FAMILIES | MIXTURES | HYBRIDS
KINDS = {
    "dense": "Qwen3",
    "windows": "Gemma 3",
    "experts": "OLMoE",
    "latent rows": "DeepSeek V3",
    "states": "Qwen3.5",
    "slopes": "BLOOM",
    "sinks": "gpt-oss",
}
PROMPTS = [[5, 9, 200, 31, *range(7, 19)], [7, 8], [*range(30, 75)]]
COUNT = 32


def generated(model, prompt):
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": COUNT}
    return model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_of_transformers(tmp_path, inaugural_text, kind):
    """Both executors, three prompts at a time, of which the longest takes two steps."""
    model = FAMILIES[KINDS[kind]].save(tmp_path)
    save_tokenizer(tmp_path, inaugural_text, vocab_size=300)
    expected = [generated(model, prompt) for prompt in PROMPTS]
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    params = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
    for executor in ("native", "torch"):
        sizes = {"max_model_len": 100, "max_num_seqs": 3, "max_num_batched_tokens": 40}
        llm = LLM(str(tmp_path), executor=executor, device="cpu", dtype="float32", **sizes)
        found = llm.generate(prompts, params, use_tqdm=False)
        assert [output.outputs[0].token_ids for output in found] == expected
