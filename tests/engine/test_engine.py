"""The engine's steps: aborting at any point, one terminal event for each request, nothing left behind."""

import pytest

from octavo import SamplingParams
from octavo.errors import RequestError
from octavo.request import Prompt
from octavo.sampling_params import RequestOutputKind

MIX = {
    "greedy": {"temperature": 0},
    "two samples": {"seed": 1, "n": 2},
    "best of three": {"seed": 2, "n": 1, "best_of": 3, "logprobs": 1},
    "beams": {"temperature": 0, "best_of": 3, "use_beam_search": True},
    "prompt logprobs": {"temperature": 0, "prompt_logprobs": 1},
}


def params_of(name, **changes):
    return SamplingParams(**{"max_tokens": 8, "ignore_eos": True, **MIX[name], **changes})


def submit_all(engine, **changes):
    """One request of each kind, with prompts that share a beginning and are longer than a step."""
    for number, name in enumerate(MIX):
        engine.submit(name, Prompt(None, [*range(40), number, 3, 4]), params_of(name, **changes))


def finish(engine):
    """The last outputs of what runs, by request."""
    last = {}
    while engine.has_work:
        for output in engine.step():
            assert output.request_id not in last or not last[output.request_id].finished
            last[output.request_id] = output
    return last


def tokens_of(output):
    return [completion.token_ids for completion in output.outputs]


def assert_clean(engine):
    assert not engine.has_work
    assert not engine.scheduler.has_work
    assert engine.scheduler.block_usage == 0
    assert engine.scheduler.num_running == engine.scheduler.num_waiting == 0


@pytest.fixture(params=[{}, {"num_gpu_blocks_override": 12}], ids=["calm", "pressed"])
def engine(request, make_llm):
    return make_llm(max_num_batched_tokens=32, max_num_seqs=16, **request.param).engine


def test_every_request_ends_in_one_terminal_output(engine):
    submit_all(engine)
    last = finish(engine)
    assert set(last) == set(MIX)
    assert all(output.finished and output.error is None for output in last.values())
    assert [len(last[name].outputs) for name in MIX] == [1, 2, 1, 1, 1]
    assert_clean(engine)


@pytest.mark.parametrize("victim", MIX)
def test_a_request_can_be_aborted_at_any_point(engine, victim):
    submit_all(engine)
    expected = finish(engine)
    for steps in range(40):
        submit_all(engine)
        seen = {}
        for _ in range(steps):
            seen |= {output.request_id: output for output in engine.step()}
        output = engine.abort(victim)
        if output is None:
            assert seen[victim].finished
            break
        assert output.finished
        assert {completion.finish_reason for completion in output.outputs} <= {"abort", "length"}
        assert engine.abort(victim) is None
        seen |= finish(engine)
        for name in set(MIX) - {victim}:
            assert tokens_of(seen[name]) == tokens_of(expected[name])
        assert_clean(engine)
    else:
        pytest.fail("the request never ended")


def test_aborting_all_at_once_leaves_nothing(engine):
    for steps in range(12):
        submit_all(engine)
        for _ in range(steps):
            engine.step()
        for name in MIX:
            engine.abort(name)
        assert_clean(engine)


def test_what_an_aborted_request_had_is_returned(engine):
    engine.submit("a", Prompt(None, [1, 2, 3]), params_of("greedy"))
    for _ in range(3):
        engine.step()
    output = engine.abort("a")
    known = 2 if engine.model.executor.runs_ahead else 3
    assert (len(output.outputs[0].token_ids), output.outputs[0].finish_reason) == (known, "abort")


def test_an_id_can_be_used_again_only_once_it_is_free(engine):
    engine.submit("a", Prompt(None, [1, 2, 3]), params_of("greedy"))
    with pytest.raises(RequestError, match="'a' is already running"):
        engine.submit("a", Prompt(None, [4]), params_of("greedy"))
    assert tokens_of(finish(engine)["a"]) != []
    engine.submit("a", Prompt(None, [1, 2, 3]), params_of("greedy"))
    finish(engine)
    assert_clean(engine)


def test_a_refused_request_leaves_nothing(engine):
    for bad in ({"best_of": 17, "n": 17, "temperature": 1.0}, {"stop_token_ids": [500]}, {"logprobs": 30}):
        with pytest.raises(RequestError):
            engine.submit("bad", Prompt(None, [1, 2]), params_of("greedy", **bad))
        assert_clean(engine)


def test_a_step_without_work_gives_nothing(engine):
    assert engine.step() == []


@pytest.mark.parametrize("name", ["greedy", "two samples"])
def test_kinds_of_output_hold_all_what_is_new_or_the_end(engine, name):
    outputs = {}
    for kind in RequestOutputKind:
        engine.submit("a", Prompt(None, [1, 2, 3]), params_of(name, output_kind=kind, logprobs=1))
        outputs[kind] = []
        while engine.has_work:
            outputs[kind] += engine.step()
    (final,) = outputs[RequestOutputKind.FINAL_ONLY]
    cumulative, delta = outputs[RequestOutputKind.CUMULATIVE], outputs[RequestOutputKind.DELTA]
    assert tokens_of(cumulative[-1]) == tokens_of(final)
    for index, completion in enumerate(final.outputs):
        pieces = [output.outputs[index] for output in delta]
        assert "".join(piece.text for piece in pieces) == completion.text
        assert [token for piece in pieces for token in piece.token_ids] == completion.token_ids
        assert [entry for piece in pieces for entry in piece.logprobs] == completion.logprobs
        grown = [len(output.outputs[index].token_ids) for output in cumulative]
        assert grown == sorted(grown)
