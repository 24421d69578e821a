"""Whole engines on a GPU: captured and eager decode steps, beside the native executor."""

import pytest
import torch

from harness import decoder, make_torch, random_tensors
from octavo import LLM, SamplingParams
from octavo.executor.torch.forms import QUANTIZED
from octavo.executor.torch.products import FP8_CAPABILITY, multiply_fp8
from octavo.executor.torch.program import scratch_bytes
from octavo.executor.torch.quantized import Quantized, quantize

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


@pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])
def test_quantized_models_are_those_of_the_plain_ops(tiny, quantization):
    """In float32, where fp8 is not multiplied in 8 bits; decodes are captured, prompts have few rows and many."""
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)

    def texts(**options):
        shared = {"quantization": quantization, "executor": "torch", "dtype": "float32", "block_size": 16}
        outputs = LLM(str(tiny[0]), **shared, **options).generate(TEXTS * 3, params, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]

    assert texts(device="cuda") == texts(device="cpu")


@pytest.mark.parametrize("quantization", [None, "int8", "int4", "fp8"])
def test_the_memory_of_weights_is_what_was_planned(quantization):
    graph = decoder(hidden=1024, inner=4096, heads=16, kv_heads=4, head_dim=64, vocab=4000)
    tensors = random_tensors(graph, "bfloat16")
    before = torch.cuda.memory_allocated()
    executor = make_torch(graph, tensors, "bfloat16", device="cuda", quantization=quantization, num_blocks=1)
    taken = torch.cuda.memory_allocated() - before
    program = executor.interpreter.program
    planned = program.weight_bytes("bfloat16") + scratch_bytes(program.forms)
    assert taken < planned + (16 << 20)


def test_eight_bit_products_on_the_chip():
    if torch.cuda.get_device_capability() < FP8_CAPABILITY:
        pytest.skip("the chip has none")
    generator = torch.Generator("cuda").manual_seed(0)
    values, x, bias = (
        torch.randn(shape, generator=generator, device="cuda") for shape in ((512, 256), (80, 256), (512,))
    )
    matrix = Quantized.empty(QUANTIZED["fp8"], 512, 256, values.device)
    matrix.copy_(quantize(values, matrix.form))
    wide = torch.zeros(80, 600, dtype=torch.bfloat16, device="cuda")
    multiply_fp8(x.bfloat16(), matrix, bias.bfloat16(), wide[:, 8:520])
    expected = x @ values.T + bias
    assert ((wide[:, 8:520].float() - expected).norm(dim=1) <= 0.06 * expected.norm(dim=1)).all()


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
