"""Whole engines on a GPU: captured and eager decode steps, beside the native executor."""

import pytest
import torch

from octavo import LLM, SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
TEXTS = ["Ask not what your country", "Let", "And so, my fellow Americans: ask what you can do for your country. " * 3]
KINDS = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 5},
    "penalised": {"temperature": 0, "repetition_penalty": 1.3, "presence_penalty": 0.5},
    "several": {"n": 3, "temperature": 0.9, "seed": 2},
}


@pytest.mark.parametrize("enforce_eager", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_texts_are_the_native_executor_s(tiny, name, enforce_eager):
    params = SamplingParams(**KINDS[name], max_tokens=30, ignore_eos=True)

    def texts(**options):
        llm = LLM(str(tiny[0]), dtype="float32", block_size=16, max_num_seqs=12, **options)
        outputs = llm.generate(TEXTS * 3, params, use_tqdm=False)
        return [[completion.token_ids for completion in output.outputs] for output in outputs]

    assert texts(device="cuda", enforce_eager=enforce_eager) == texts(device="cpu")


def test_a_model_that_does_not_fit_is_refused_with_the_plan(tiny):
    from octavo import MemoryPlanError

    with pytest.raises(MemoryPlanError, match="does not fit: weights"):
        LLM(str(tiny[0]), device="cuda", gpu_memory_utilization=1e-6)


def test_a_decode_step_never_waits_for_the_device(tiny):
    llm = LLM(str(tiny[0]), device="cuda", block_size=16, max_num_seqs=12)
    params = [SamplingParams(**kind, max_tokens=20, ignore_eos=True) for kind in list(KINDS.values())[:3]]
    run = llm.model.executor.run

    def watched(step):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return run(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    llm.generate(TEXTS, params, use_tqdm=False)  # compiles what is not compiled yet
    llm.model.executor.run = watched
    assert all(output.finished for output in llm.generate(TEXTS, params, use_tqdm=False))
