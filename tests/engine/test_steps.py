"""A step is plain data: it may be computed elsewhere, executors leave it as it is, and forget what has ended."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from harness import decoder, make_native, make_torch, random_tensors
from octavo.errors import UnsupportedError
from octavo.executor.base import Step, Wanted
from octavo.request import Prompt
from speech.test_job import checkpoint, make, words_of  # noqa: F401

from .test_engine import MIX, finish, params_of, submit_all


def send_everything(executor, monkeypatch):
    """Has the executor compute copies of what it is given; returns the list of all steps."""
    run, cross_attention, steps = executor.run, executor.cross_attention, []

    def copied(inner):
        def call(step, *more):
            steps.append(step)
            return inner(pickle.loads(pickle.dumps(step)), *more)

        return call

    monkeypatch.setattr(executor, "run", copied(run))
    monkeypatch.setattr(executor, "cross_attention", copied(cross_attention))
    return steps


def everything(outputs):
    found = {}
    for name, output in outputs.items():
        assert output.error is None
        found[name] = [(one.token_ids, one.cumulative_logprob, one.logprobs) for one in output.outputs]
        found[name].append(output.prompt_logprobs)
    return found


@pytest.mark.parametrize("options", [{}, {"num_gpu_blocks_override": 12}], ids=["calm", "pressed"])
def test_a_step_may_be_computed_elsewhere(make_llm, monkeypatch, executor, options):
    options = {"max_num_batched_tokens": 32, "max_num_seqs": 16, "executor": executor, **options}
    engines = [make_llm(**options).engine for _ in range(2)]
    steps = send_everything(engines[1].model.executor, monkeypatch)
    found = []
    for engine in engines:
        submit_all(engine)
        found.append(everything(finish(engine)))
    assert found[0] == found[1]
    assert len(steps) > 8
    assert any(step.draws for step in steps)


@pytest.mark.parametrize("beam_size", [1, 2])
def test_so_may_what_is_heard(make, monkeypatch, executor, beam_size):  # noqa: F811
    there, here = make(executor=executor), make(executor=executor)
    steps = send_everything(there.model.executor, monkeypatch)
    assert words_of(there, beam_size=beam_size) == words_of(here, beam_size=beam_size)
    assert any(step.encode for step in steps)
    assert {len(step.source_lengths) for step in steps if len(step.tokens)} == {1, beam_size}


@pytest.mark.parametrize("make_one", [make_native, make_torch])
def test_running_a_step_leaves_it_as_it_was(make_one):
    graph = decoder()
    executor = make_one(graph, random_tensors(graph))
    step = Step(
        sequences=(4, 2),
        tokens=np.array([5, 6, 7, 9], np.int32),
        starts=np.zeros(2, np.int32),
        counts=np.array([3, 1], np.int32),
        block_tables=np.array([[3], [8]], np.int32),
        copies=np.array([[1, 2]], np.int32),
        wanted=Wanted(np.array([2, 3], np.int32)),
    )
    before = pickle.dumps(step)
    first = executor.run(step).logits.copy()
    assert pickle.dumps(step) == before
    np.testing.assert_array_equal(executor.run(pickle.loads(before)).logits, first)


def kept(executor):
    """Ids of the sequences of which an executor keeps anything."""
    return set(executor.table._row_of) if executor.runs_ahead else set(executor._samplers)


@pytest.mark.parametrize("options", [{}, {"num_gpu_blocks_override": 12}], ids=["calm", "pressed"])
@pytest.mark.parametrize("steps", [1, 3, 5, 1000])
def test_what_has_ended_is_forgotten_with_the_next_step(make_llm, executor, options, steps):
    engine = make_llm(max_num_batched_tokens=32, max_num_seqs=16, executor=executor, **options).engine
    submit_all(engine)
    for _ in range(steps):
        engine.step()
    for name in MIX:
        engine.abort(name)
    engine.submit("last", Prompt(None, [5, 6, 7]), params_of("greedy"))
    (sequence,) = engine.jobs["last"].request.sequences
    engine.step()
    assert kept(engine.model.executor) == {sequence.id}


ASKED = {
    "adapters": {"adapters": np.array([3], np.int32)},
    "num_proposed": {"num_proposed": np.array([1], np.int32)},
    "hidden_states": {"wanted": Wanted(hidden_states=np.zeros(1, np.int32))},
}


@pytest.mark.parametrize("make_one", [make_native, make_torch])
@pytest.mark.parametrize("name", ASKED)
def test_what_an_executor_does_not_have_is_refused_by_name(make_one, name):
    graph = decoder()
    executor = make_one(graph, random_tensors(graph))
    ones = np.ones(1, np.int32)
    step = Step(sequences=(1,), tokens=ones, starts=ones - 1, counts=ones, block_tables=ones[None])
    executor.run(step)
    with pytest.raises(UnsupportedError, match=name):
        executor.run(replace(step, **ASKED[name]))
