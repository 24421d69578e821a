"""Every kind of model through the engine: tokens are those of transformers, bits those of a prompt alone."""

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_the_batch_and_the_chunks(tmp_path, inaugural_text, kind, dtype):
    """Tokens that are drawn, and log-probabilities, of eight prompts together, and of each alone in chunks of 7."""
    FAMILIES[KINDS[kind]].save(tmp_path)
    save_tokenizer(tmp_path, inaugural_text, vocab_size=300)
    prompts = [{"prompt_token_ids": [(7 * i + j) % 290 + 3 for j in range(1 + 6 * i)]} for i in range(8)]
    params = [
        SamplingParams(temperature=1.0, top_p=0.95, seed=i, max_tokens=12, logprobs=3, ignore_eos=True)
        for i in range(8)
    ]
    sizes = {"executor": "native", "dtype": dtype, "max_model_len": 100, "enable_prefix_caching": False}
    together = LLM(str(tmp_path), max_num_seqs=8, max_num_batched_tokens=64, **sizes)
    whole = [drawn(output) for output in together.generate(prompts, params, use_tqdm=False)]
    alone = LLM(str(tmp_path), max_num_seqs=1, max_num_batched_tokens=7, **sizes)
    for i in range(8):
        assert drawn(alone.generate(prompts[i], params[i], use_tqdm=False)[0]) == whole[i]


def drawn(output):
    (one,) = output.outputs
    return one.token_ids, [[(token, entry.logprob) for token, entry in position.items()] for position in one.logprobs]
