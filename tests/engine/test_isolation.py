"""An exception that belongs to one job ends that job alone: its neighbours' bits stay, and nothing is left behind."""

import inspect

import pytest

from octavo import LLM
from octavo.engine.job import BeamJob, SamplingJob
from octavo.errors import NoTokenError, RequestFailedError
from octavo.executor.native.executor import NativeExecutor
from octavo.request import Prompt
from octavo.speech.job import SpeechJob
from speech.test_job import sound, submit
from speech.tiny_whisper import make_tiny_whisper

from .test_engine import MIX, assert_clean, finish, params_of, submit_all

VICTIM = {SamplingJob: "best of three", BeamJob: "beams"}
UNCALLED = {SamplingJob: ["_options", "_completion_of"], BeamJob: [], SpeechJob: ["take_prompt_logits"]}


def methods_of(cls, *uncalled):
    """The names of all methods and properties of a kind of job that a request calls which nobody ends early.

    `stop` is for the others, and `uncalled` are those that no request of this kind calls.
    """
    found = {name for base in cls.__mro__[:-1] for name in vars(base) if not name.startswith("__")}
    found -= {"stop", *uncalled}
    return sorted(name for name in found if callable(getattr(cls, name)) or isinstance(getattr(cls, name), property))


def sabotage(job, name, calls):
    """Makes a method or property raise from its call number `calls` on; returns the list of its calls."""
    cls, seen = type(job), []
    is_property = isinstance(inspect.getattr_static(cls, name), property)
    inner = getattr(cls, name).fget if is_property else getattr(cls, name)

    def raising(self, *args, **options):
        seen.append(name)
        if len(seen) > calls:
            raise ZeroDivisionError("a mistake of this job's")
        return inner(self, *args, **options)

    job.__class__ = type("Sabotaged", (cls,), {name: property(raising) if is_property else raising})
    return seen


def everything(output):
    assert output.error is None
    return [(sample.token_ids, sample.text, sample.cumulative_logprob) for sample in output.outputs]


def assert_failed(output):
    assert output.finished
    assert isinstance(output.error, RequestFailedError)
    assert "mistake" not in str(output.error), "what was not raised on purpose is for the log"
    assert {completion.finish_reason for completion in output.outputs} == {"error"}


@pytest.fixture(scope="module", params=["native", "torch"])
def engine(request, tiny):
    options = {"dtype": "float32", "block_size": 16, "max_num_batched_tokens": 32, "max_num_seqs": 16}
    return LLM(str(tiny[0]), executor=request.param, **options).engine


@pytest.fixture(scope="module")
def undisturbed(engine):
    """What each output must be: PyTorch's products on some CPUs depend a little on how many rows there are."""
    submit_all(engine)
    last = {name: everything(output) for name, output in finish(engine).items()}
    if isinstance(engine.model.executor, NativeExecutor):
        return last
    return {name: [(ids, text, pytest.approx(of)) for ids, text, of in samples] for name, samples in last.items()}


@pytest.mark.parametrize("calls", [0, 2])
@pytest.mark.parametrize(("cls", "method"), [(cls, name) for cls in VICTIM for name in methods_of(cls, *UNCALLED[cls])])
def test_a_job_that_raises_ends_alone(engine, undisturbed, cls, method, calls):
    victim = VICTIM[cls]
    submit_all(engine)
    engine.abort(victim)  # for every method of its to have something to do
    engine.submit(victim, Prompt(None, [*range(40), 2, 3, 4]), params_of(victim, prompt_logprobs=1))
    seen = sabotage(engine.jobs[victim], method, calls)
    last = finish(engine)
    assert_clean(engine)
    assert set(last) == set(MIX)
    for name in set(MIX) - {victim}:
        assert everything(last[name]) == undisturbed[name]
    assert seen, f"{method} was not called"
    if len(seen) > calls:
        assert_failed(last[victim])


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return LLM(str(make_tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny")), dtype="float32", max_num_seqs=8)


@pytest.mark.parametrize("calls", [0, 2])
@pytest.mark.parametrize("method", methods_of(SpeechJob, *UNCALLED[SpeechJob]))
def test_a_window_of_speech_that_raises_ends_alone(speech, method, calls):
    engine = speech.engine
    words = {"word_timestamps": True, "alignment_heads": speech.model.reader.alignment_heads, "num_positions": 150}

    def submit_windows():
        submit(speech, "words", sound(0), **words)
        submit(speech, "beams", sound(1), beam_size=2)
        submit(speech, "stays", sound(2), **words)

    submit_windows()
    expected = everything(finish(engine)["stays"])
    submit_windows()
    seen = {name: sabotage(engine.jobs[name], method, calls) for name in ("words", "beams")}
    last = finish(engine)
    assert_clean(engine)
    assert everything(last["stays"]) == expected
    assert any(seen.values()), f"{method} was not called"
    for name in seen:
        if len(seen[name]) > calls:
            assert isinstance(last[name].error, RequestFailedError)


@pytest.mark.parametrize("method", ["stop", "output", "completions"])
@pytest.mark.parametrize("end", ["abort", "cut"])
def test_a_job_that_raises_when_it_is_ended_is_ended(engine, end, method):
    engine.submit("a", Prompt(None, [1, 2, 3]), params_of("greedy"))
    engine.step()
    sabotage(engine.jobs["a"], method, 0)
    output = getattr(engine, end)("a")
    assert_clean(engine)
    assert_failed(output)


@pytest.mark.parametrize("victim", MIX)
def test_a_request_that_is_cut_has_what_it_made_so_far(engine, undisturbed, victim):
    submit_all(engine)
    last = {}
    while not engine.jobs[victim].has_tokens:
        last |= {output.request_id: output for output in engine.step()}
    output = engine.cut(victim)
    assert output.finished
    assert output.error is None
    assert {completion.finish_reason for completion in output.outputs} == {"length"}
    if victim != "best of three" and victim != "beams":  # the best of a shorter text may be others
        for completion, (token_ids, text, _) in zip(output.outputs, undisturbed[victim], strict=True):
            assert 0 < len(completion.token_ids) < len(token_ids)
            assert token_ids[: len(completion.token_ids)] == completion.token_ids
            assert text.startswith(completion.text.rstrip("\ufffd"))
    last |= finish(engine)
    assert_clean(engine)
    for name in set(MIX) - {victim}:
        assert everything(last[name]) == undisturbed[name]


BANS = {
    "allowed_token_ids": ({"allowed_token_ids": [7], "bad_words": ["A"]}, ("allowed_token_ids", "bad_words")),
    "min_tokens": (
        {"allowed_token_ids": [7, 8], "stop_token_ids": [7, 8], "min_tokens": 1},
        ("allowed_token_ids", "min_tokens", "stop_token_ids"),
    ),
    "all tokens": ({"stop_token_ids": list(range(500)), "min_tokens": 1}, ("min_tokens", "stop_token_ids")),
}


@pytest.mark.parametrize("name", BANS)
def test_a_request_that_bans_every_first_token_is_refused_naming_its_fields(engine, name):
    options, names = BANS[name]
    if "bad_words" in options:  # of both spellings of the word
        tokenizer = engine.model.tokenizer
        spellings = [tokenizer.encode(text, add_special_tokens=False) for text in ("A", " A")]
        options = {**options, "allowed_token_ids": [ids[0] for ids in spellings if len(ids) == 1]}
    with pytest.raises(NoTokenError) as refused:
        engine.submit("a", Prompt(None, [1, 2, 3]), params_of("greedy", **options))
    assert all(each in str(refused.value) for each in names)
    assert_clean(engine)


def test_all_tokens_may_end_a_text(engine):
    engine.submit("a", Prompt(None, [1, 2, 3]), params_of("greedy", stop_token_ids=list(range(500))))
    (completion,) = finish(engine)["a"].outputs
    assert (len(completion.token_ids), completion.finish_reason) == (1, "stop")


def test_a_request_that_comes_to_ban_every_token_ends_alone_with_its_text_so_far(engine, undisturbed):
    submit_all(engine)
    (first,) = engine.model.tokenizer.encode("A", add_special_tokens=False)
    bans = {"allowed_token_ids": [first], "bad_words": ["AAA"]}
    engine.submit("banned", Prompt(None, [1, 2, 3]), params_of("greedy", **bans))
    last = finish(engine)
    output = last.pop("banned")
    assert isinstance(output.error, NoTokenError)
    assert (output.outputs[0].token_ids, output.outputs[0].finish_reason) == ([first, first], "error")
    assert {name: everything(last[name]) for name in last} == undisturbed
