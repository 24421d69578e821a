"""The default model beside transformers, on the same weights."""

from copy import deepcopy

import numpy as np
import pytest

from checkpoints import transformers_logits
from harness import logits_of
from octavo import LLM, SamplingParams
from octavo.errors import ConfigError

NEAR_TIE = 1e-3  # reference logits that are closer than this may change places
QUESTIONS = [
    "Hello",
    "The capital of France is",
    "Why is the sky blue?",
    "def fibonacci(n):",
    "Once upon a time, in a village by the sea,",
    "2 + 2 = 4, 3 + 3 = 6, 4 + 4 =",
    "Q: How many legs does a spider have?\nA:",
    "Der Himmel ist blau, weil",
    "<|im_start|>user\nWrite a haiku about rain.<|im_end|>\n<|im_start|>assistant\n",
    "1, 1, 2, 3, 5, 8, 13,",
]
SPANS = [
    (0, 30),
    (200, 440),
    (30, 33),
    (500, 700),
    (0, 900),
    (64, 129),
    (100, 356),
    (700, 1213),
    (0, 257),
    (900, 910),
]


@pytest.fixture(scope="module")
def text_tokens(real_model, inaugural_text):
    llm = LLM(str(real_model), max_model_len=64, max_num_seqs=1)
    return llm.model.tokenizer.encode(inaugural_text)


@pytest.fixture(scope="module")
def prompts(real_model, text_tokens):
    llm = LLM(str(real_model), max_model_len=64, max_num_seqs=1)
    questions = [llm.model.tokenizer.encode(question) for question in QUESTIONS]
    return questions + [text_tokens[begin:end] for begin, end in SPANS]


def first_difference(reference, num_prompt, tokens):
    """The first token that the reference would not have chosen, and by how much, before any near tie."""
    for place, token in enumerate(tokens):
        logits = reference[num_prompt - 1 + place]
        second, first = np.sort(logits)[-2:]
        behind = first - logits[token]
        if behind >= NEAR_TIE:
            return place, float(behind)
        if first - second < NEAR_TIE:
            return None
    return None


def test_64_greedy_tokens_of_20_prompts_are_transformers_s(executor, real_model, transformers_model, prompts):
    assert len(prompts) == 20
    llm = LLM(str(real_model), executor=executor, dtype="float32", max_model_len=1024, max_num_seqs=20)
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    differences = {}
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        tokens = output.outputs[0].token_ids
        assert len(tokens) == 64
        reference = transformers_logits(transformers_model, prompt + tokens)
        if (difference := first_difference(reference, len(prompt), tokens)) is not None:
            differences[number] = difference
    assert differences == {}


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def perplexity(logprobs, tokens):
    return float(np.exp(-logprobs[np.arange(len(tokens) - 1), tokens[1:]].mean()))


@pytest.fixture(scope="module")
def unpacked_model(transformers_model, tmp_path_factory):
    """The default model's weights in bfloat16, without a tokenizer."""
    path = tmp_path_factory.mktemp("unpacked")
    deepcopy(transformers_model).bfloat16().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def expected(transformers_model, text_tokens):
    return log_softmax(transformers_logits(transformers_model, text_tokens[:1024]))


def compare(llm, tokens, expected):
    """Mean KL divergence, how often the likeliest token is the same, and both perplexities."""
    found = log_softmax(logits_of(llm.model.executor, tokens, [64]))
    divergence = (np.exp(expected) * (expected - found)).sum(axis=-1).mean()
    agreement = (found.argmax(axis=-1) == expected.argmax(axis=-1)).mean()
    ours, theirs = perplexity(found, tokens), perplexity(expected, tokens)
    print(f"\nKL {divergence:.2e}, same argmax {agreement:.2%}, perplexity {ours:.3f} (reference {theirs:.3f})")
    assert abs(theirs / 35.14 - 1) <= 0.002
    return divergence, agreement, ours / theirs


def test_bfloat16_is_as_good_as_the_reference(executor, unpacked_model, real_model, text_tokens, expected):
    options = {"dtype": "bfloat16", "tokenizer": str(real_model), "max_model_len": 1024, "max_num_seqs": 1}
    llm = LLM(str(unpacked_model), executor=executor, **options)
    divergence, agreement, ratio = compare(llm, text_tokens[:1024], expected)
    assert divergence <= 1e-3
    assert agreement >= 0.97
    assert abs(ratio - 1) <= 0.002


# Bounds of the KL divergence, of the share of tokens whose likeliest successor is another, and of the perplexity.
WORST = {"gguf": (1e-3, 0.03, 0.002), "int8": (2e-2, 0.1, 0.02), "int4": (0.15, 0.25, 0.06)}


@pytest.mark.parametrize("quantization", WORST)
def test_quantized_weights_are_nearly_as_good(quantization, unpacked_model, real_model, text_tokens, expected):
    """A GGUF file is multiplied as it is stored; int8 and int4 weights are rounded themselves."""
    model = real_model if quantization == "gguf" else unpacked_model
    options = {"quantization": quantization, "tokenizer": str(real_model), "max_model_len": 1024, "max_num_seqs": 1}
    llm = LLM(str(model), dtype="bfloat16", executor="native", **options)
    divergence, agreement, ratio = compare(llm, text_tokens[:1024], expected)
    worst_divergence, worst_share, worst_ratio = WORST[quantization]
    assert divergence <= worst_divergence
    assert 1 - agreement <= worst_share
    assert abs(ratio - 1) <= worst_ratio


def test_a_quantization_that_the_file_does_not_have_is_refused(unpacked_model, real_model):
    with pytest.raises(ConfigError, match=r"quantization='gguf'.*is not quantized; int8, int4, fp8"):
        LLM(str(unpacked_model), quantization="gguf", tokenizer=str(real_model))
    with pytest.raises(ConfigError, match=r"quantization='int4'.*is quantized already, in Q"):
        LLM(str(real_model), quantization="int4")
    with pytest.raises(ConfigError, match=r"quantization='int8'.*is quantized already, in Q"):
        LLM(str(real_model), quantization="int8", executor="torch")
