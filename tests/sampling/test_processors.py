"""Logits processors of users: functions of a request, and vLLM's classes."""

import subprocess
import sys

import pytest
import torch

from cli.conftest import make_tiny_llama
from octavo import LLM, SamplingParams
from octavo.errors import ConfigError, NumericalError, RequestError, UnsupportedError
from octavo.v1.sample.logits_processor import (
    AdapterLogitsProcessor,
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
    process_dict_updates,
)

PROMPT = [5, 6, 7]
GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def llm(path):
    return LLM(path, dtype="float32")


def tokens(llm, prompt=PROMPT, **params):
    (output,) = llm.generate([prompt], SamplingParams(**GREEDY | params), use_tqdm=False)
    if output.error is not None:
        raise output.error
    return [list(completion.token_ids) for completion in output.outputs]


def only(token):
    """A function that leaves one token."""

    def process(output_ids, logits):
        kept = logits[token].item()
        logits[:] = float("-inf")
        logits[token] = kept
        return logits

    return process


def test_a_function_sees_the_output_and_a_row_and_decides(llm):
    seen = []

    def count(output_ids, logits):
        seen.append((list(output_ids), type(logits), len(logits)))
        return only(10 + len(output_ids))(output_ids, logits)

    assert tokens(llm, logits_processors=[count]) == [[10, 11, 12, 13, 14, 15]]
    assert [ids for ids, _, _ in seen] == [list(range(10, 10 + n)) for n in range(6)]
    assert {(kind, length) for _, kind, length in seen} == {(torch.Tensor, llm.model.vocab_size)}


def test_a_function_of_three_gets_the_prompt_too_and_may_return_a_new_row(llm):
    def process(prompt_ids, output_ids, logits):
        assert prompt_ids == PROMPT
        changed = torch.full_like(logits, float("-inf"))
        changed[sum(prompt_ids) + len(output_ids)] = 1
        return changed

    assert tokens(llm, logits_processors=[process]) == [[18, 19, 20, 21, 22, 23]]


def test_functions_are_called_in_order_and_bans_and_penalties_hold_around_them(llm):
    order = []

    def noted(name):
        return lambda ids, row: order.append(name) or row

    functions = [noted("a"), noted("b")]
    plain = tokens(llm, presence_penalty=1.5, bad_words=["a"], repetition_penalty=1.3)
    assert (
        tokens(llm, presence_penalty=1.5, bad_words=["a"], repetition_penalty=1.3, logits_processors=functions) == plain
    )
    assert "".join(order) == "ab" * 6


def test_a_request_with_functions_changes_no_other(llm):
    alone = tokens(llm)
    params = [SamplingParams(**GREEDY), SamplingParams(**GREEDY, logits_processors=[only(9)])]
    outputs = llm.generate([PROMPT, PROMPT], params, use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == [alone[0], [9] * 6]


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda ids, row: 1 / 0, "ZeroDivisionError"),
        (lambda ids, row: None, "returned None"),
        (lambda ids, row: row[:5], "shape"),
        (lambda ids, row: row * float("nan"), "NaN"),
        (lambda ids, row: "text", "ValueError"),
    ],
)
def test_an_error_in_a_function_ends_its_request_alone(llm, function, word):
    params = [SamplingParams(**GREEDY), SamplingParams(**GREEDY, logits_processors=[function])]
    good, bad = llm.generate([PROMPT, PROMPT], params, use_tqdm=False)
    assert [list(good.outputs[0].token_ids)] == tokens(llm)
    assert word in str(bad.error)
    assert bad.outputs[0].finish_reason == "error"


def test_a_function_that_bans_everything_is_told(llm):
    with pytest.raises(NumericalError):
        tokens(llm, logits_processors=[lambda ids, row: row - float("inf")])


def test_the_torch_executor_calls_functions_and_takes_no_classes(path):
    llm = LLM(path, dtype="float32", executor="torch")
    assert tokens(llm, logits_processors=[only(9)]) == [[9] * 6]
    with pytest.raises(RequestError, match=r"lambda.*ZeroDivisionError"):
        tokens(llm, logits_processors=[lambda ids, row: 1 / 0])
    with pytest.raises(UnsupportedError, match="native"):
        LLM(path, executor="torch", logits_processors=[Target])


def test_beams_have_none(llm):
    with pytest.raises(UnsupportedError, match="logits_processors"):
        tokens(llm, use_beam_search=True, best_of=2, logits_processors=[only(5)])


class Target(LogitsProcessor):
    """As in vLLM's documentation: leaves the token that `extra_args` names."""

    @classmethod
    def validate_params(cls, sampling_params):
        target = (sampling_params.extra_args or {}).get("target_token")
        if target is not None and not isinstance(target, int):
            raise ValueError(f"target_token must be an integer, got {target}")

    def __init__(self, vllm_config, device, is_pin_memory):
        self.vocab_size = vllm_config.model_config.get_vocab_size()
        self.device = device
        self.requests = {}

    def is_argmax_invariant(self):
        return False

    def update_state(self, batch_update):
        process_dict_updates(
            self.requests,
            batch_update,
            lambda params, _, __: params.extra_args and params.extra_args.get("target_token"),
        )

    def apply(self, logits):
        if self.requests:
            assert logits.shape == (1, self.vocab_size)
            columns = torch.tensor(list(self.requests.values()), device=logits.device)
            rows = torch.tensor(list(self.requests.keys()), device=logits.device)
            kept = logits[rows, columns].clone()
            logits[rows] = float("-inf")
            logits[rows, columns] = kept
        return logits


class Countdown(AdapterLogitsProcessor):
    """Wraps a function of each request that has a `first` token."""

    def is_argmax_invariant(self):
        return False

    def new_req_logits_processor(self, params):
        first = (params.extra_args or {}).get("first")
        return None if first is None else lambda ids, row: only(first + len(ids))(ids, row)


class Flat(LogitsProcessor):
    """Keeps the likeliest token; the logits that it sees were divided by the temperature."""

    seen: list[float] = []  # noqa: RUF012

    def __init__(self, *_):
        pass

    def is_argmax_invariant(self):
        return True

    def update_state(self, batch_update):
        pass

    def apply(self, logits):
        self.seen.append(float(logits.max()))
        return torch.where(logits == logits.max(), logits, -torch.inf)


class Stateful(LogitsProcessor):
    """Counts its own calls."""

    def __init__(self, *_):
        self.calls, self.updates = 0, []

    def is_argmax_invariant(self):
        return False

    def update_state(self, batch_update):
        self.updates.append(batch_update is None)

    def apply(self, logits):
        self.calls += 1
        assert self.updates == [False] + [True] * (self.calls - 1)
        return only(30 + self.calls)(None, logits[0])[None]


class Broken(Stateful):
    def apply(self, logits):
        raise KeyError("lost")


@pytest.fixture(scope="module")
def processed(path):
    return LLM(path, dtype="float32", logits_processors=[Target, f"{__name__}:Countdown"])


def test_classes_read_extra_args_and_leave_other_requests_alone(llm, processed):
    prompts = [PROMPT] * 3
    params = [SamplingParams(**GREEDY, extra_args=args) for args in ({"target_token": 8}, {"first": 20}, None)]
    found = [list(output.outputs[0].token_ids) for output in processed.generate(prompts, params, use_tqdm=False)]
    assert found == [[8] * 6, [*range(20, 26)], *tokens(llm)]


def test_parameters_that_a_class_refuses_are_an_error_of_the_request(processed):
    with pytest.raises(RequestError, match=r"Target refuses the request: target_token must be an integer, got x"):
        tokens(processed, extra_args={"target_token": "x"})


def test_every_sample_and_a_preempted_request_has_a_state_of_its_own(path):
    llm = LLM(path, dtype="float32", logits_processors=[Stateful], num_gpu_blocks_override=8, block_size=16)
    found = tokens(llm, n=3, temperature=1.0, max_tokens=4)
    assert found == [[31, 32, 33, 34]] * 3


def test_a_class_that_fails_ends_its_request_alone(path):
    llm = LLM(path, dtype="float32", logits_processors=[Broken])
    with pytest.raises(RequestError, match=r"Broken failed: KeyError: 'lost'"):
        tokens(llm)


def test_a_class_that_keeps_the_likeliest_token_sees_logits_after_the_temperature(path, llm):
    flat = LLM(path, dtype="float32", logits_processors=[Flat])
    Flat.seen.clear()
    assert tokens(flat) == tokens(llm)
    assert Flat.seen == []  # greedy sampling has no use for it
    assert tokens(flat, temperature=2.0, seed=1, max_tokens=1) == [tokens(llm)[0][:1]]
    cold = Flat.seen.copy()
    tokens(flat, temperature=0.5, seed=1, max_tokens=1)
    assert Flat.seen[-1] == pytest.approx(4 * cold[0], rel=1e-3)


@pytest.mark.parametrize("given", [["nothing:There"], ["os:path"], [5], [int], "text", ["json"], [f"{__name__}:Gone"]])
def test_what_is_no_class_is_refused_before_the_weights_are_read(path, given):
    with pytest.raises(ConfigError, match="logits_processors"):
        LLM(path, logits_processors=given)


def test_extra_args_that_nobody_reads_are_refused(llm):
    with pytest.raises(UnsupportedError, match="extra_args"):
        tokens(llm, extra_args={"unknown": 1})


def test_requests_move_in_a_batch_as_vllm_says():
    state = {}
    make = lambda params, prompt, output: params  # noqa: E731
    assert not process_dict_updates(state, None, make)
    assert process_dict_updates(state, BatchUpdate(3, [], [(i, f"p{i}", [], []) for i in range(3)], []), make)
    process_dict_updates(state, BatchUpdate(2, [0], [], [(2, 0, MoveDirectionality.UNIDIRECTIONAL)]), make)
    assert state == {0: "p2", 1: "p1"}
    process_dict_updates(state, BatchUpdate(2, [], [], [(0, 1, MoveDirectionality.SWAP)]), make)
    assert state == {0: "p1", 1: "p2"}


def test_without_torch_a_row_is_an_array_and_torch_is_not_imported(path):
    code = f"""
import sys
import numpy as np
from octavo import LLM, SamplingParams

def process(ids, row):
    assert isinstance(row, np.ndarray)
    row[:] = -np.inf
    row[9] = 0
    return row

params = SamplingParams(temperature=0, max_tokens=3, logits_processors=[process])
print(LLM({str(path)!r}, dtype="float32").generate([[5, 6]], params, use_tqdm=False)[0].outputs[0].token_ids)
assert "torch" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str([9, 9, 9])
