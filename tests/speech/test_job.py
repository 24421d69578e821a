"""Windows of speech through an engine: a tiny random Whisper that knows all languages, on both executors."""

from dataclasses import fields, replace

import numpy as np
import pytest

from octavo import LLM
from octavo.errors import (
    AudioError,
    ConfigError,
    NumericalError,
    ParameterError,
    PromptError,
    PromptTooLongError,
    UnsupportedError,
)
from octavo.request import Prompt
from octavo.sampling_params import SamplingParams
from octavo.speech import SAMPLE_RATE
from octavo.speech.job import (
    HOPELESS_LOGPROB,
    SPARE_TOKENS,
    TEMPERATURES,
    TOKENS_PER_SECOND,
    SpeechTask,
    TranscribeOptions,
    compression_ratio,
)
from speech.tiny_whisper import make_tiny_whisper

ANYTHING = {"compression_ratio_threshold": None, "logprob_threshold": None, "no_speech_threshold": None}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture
def make(checkpoint):
    def make(**options):
        return LLM(str(checkpoint), **{"dtype": "float32", "max_num_seqs": 8, **options})

    return make


def sound(seed, seconds=3.0):
    """Loud noise of changing pitch: no window of it is taken for silence."""
    count = int(seconds * SAMPLE_RATE)
    return (0.5 * np.sin(np.cumsum(np.random.default_rng(seed).uniform(0, 1.5, count)))).astype(np.float32)


def submit(llm, name, audio, **task):
    speech, named = llm.model.reader, {**ANYTHING, "timestamps": False, **task}
    options, own = ({field.name for field in fields(kind)} for kind in (TranscribeOptions, SpeechTask))
    asked = SpeechTask(
        speech=replace(speech, **{name: named[name] for name in named.keys() - options - own}),
        options=TranscribeOptions(**{name: named[name] for name in named.keys() & options}),
        **{name: named[name] for name in named.keys() & own},
    )
    prompt = Prompt(None, speech.source(audio), asked.opening, job=asked.job)
    llm.engine.submit(name, prompt, SamplingParams(max_tokens=12, logprobs=0))


def words_of(llm, **options):
    result = llm.transcribe(sound(1, 2.0), word_timestamps=True, temperature=0.0, language="de", **ANYTHING, **options)
    return result.text, [(word.word, word.start, word.end, word.probability) for word in result.words]


def run(llm):
    """The last output of each request."""
    last = {}
    while llm.engine.has_work:
        last |= {output.request_id: output for output in llm.engine.step()}
    assert llm.engine.scheduler.block_usage == 0, "every block came back"
    return last


def transcripts(llm, audios, **options):
    options = {"temperature": 0.0, **ANYTHING, **options}
    return [(result.text, result.language) for result in llm.transcribe(audios, **options)]


def test_both_executors_write_the_same(make):
    found = []
    for llm in (make(), make(executor="torch")):
        for number, options in enumerate(({}, {"timestamps": True, "language": "de"}, {"beam_size": 3})):
            submit(llm, str(number), sound(number), **options)
        found.append(
            {name: (output.outputs[0].token_ids, output.details.language) for name, output in run(llm).items()}
        )
    assert found[0] == found[1]


@pytest.mark.parametrize("options", [{}, {"beam_size": 3}, {"word_timestamps": True}])
def test_neighbours_change_nothing(make, options):
    audios = [sound(seed, 1 + seed) for seed in range(6)]
    llm = make(dtype="bfloat16")
    together = transcripts(llm, audios, **options)
    assert together == [transcripts(llm, [audio], **options)[0] for audio in audios]
    assert len(set(together)) > 1, "different sounds give different texts"


def test_few_blocks_preempt_and_change_nothing(make):
    audios = [sound(seed) for seed in range(4)]
    expected = transcripts(make(), audios)
    tight = make(num_gpu_blocks_override=98)  # a window is 47 blocks, and its text up to 4
    assert transcripts(tight, audios) == expected
    assert tight.engine.scheduler.num_preemptions > 0


def test_too_few_blocks_for_a_window_are_refused_with_the_numbers(make):
    with pytest.raises(ConfigError, match=r"num_gpu_blocks_override.*47 blocks.*61"):
        make(num_gpu_blocks_override=47)
    assert make(num_gpu_blocks_override=49).model.max_model_len == 2 * 32


def test_the_language_is_the_likeliest_of_those_that_are_known(make):
    llm = make()
    submit(llm, "a", sound(0))
    found = run(llm)["a"].details
    assert found.language in llm.model.reader.tokens.languages
    assert 0 < found.language_probability <= 1
    submit(llm, "b", sound(0), language="fi")
    assert run(llm)["b"].details.language == "fi"


def test_a_text_in_doubt_is_tried_at_every_temperature(make):
    llm = make()
    submit(llm, "sure", sound(0))
    submit(llm, "doubtful", sound(0), logprob_threshold=-1e-6)
    submit(llm, "repetitive", sound(0), compression_ratio_threshold=1e-6)
    before = llm.engine.scheduler.num_output_tokens
    found = run(llm)
    assert llm.engine.scheduler.num_output_tokens - before > 3 * 12, "some were written again"
    assert found["sure"].details.temperature == 0.0
    # A random model finds everything unlikely: what greedy decoding finds hopeless is not tried again.
    first = found["doubtful"].details
    assert first.is_silence == (found["sure"].details.avg_logprob < HOPELESS_LOGPROB)
    greedy, kept = found["sure"].details, found["repetitive"].details
    assert (kept.temperature == 0.0) == (kept.avg_logprob == greedy.avg_logprob)
    assert kept.compression_ratio <= 1e-6 or kept.avg_logprob >= greedy.avg_logprob, "the best of all is kept"


def test_where_nobody_speaks_an_unlikely_text_is_dropped(make):
    llm = make()
    submit(llm, "a", sound(0), no_speech_threshold=-1.0, logprob_threshold=0.0)
    assert run(llm)["a"].details.is_silence
    assert llm.transcribe(sound(0), no_speech_threshold=-1.0, logprob_threshold=0.0).text == ""


def test_an_abort_at_any_time_frees_everything(make):
    llm = make()
    for steps in range(8):
        submit(llm, "gone", sound(0))
        submit(llm, "stays", sound(1))
        for _ in range(steps):
            llm.engine.step()
        llm.engine.abort("gone")
        assert run(llm)["stays"].outputs[0].finish_reason in ("stop", "length")


def test_one_bad_audio_of_several_loses_only_itself(make):
    llm = make()
    good, bad = llm.transcribe([sound(0), b"no audio"], temperature=0.0, **ANYTHING)
    assert good.error is None
    assert isinstance(bad.error, AudioError)
    with pytest.raises(AudioError):
        llm.transcribe(b"no audio")


def test_what_was_said_before_is_seen(make):
    llm = make()
    plain, hinted = (transcripts(llm, [sound(3)], prompt=prompt)[0] for prompt in (None, "Zürich, Rapperswil"))
    assert plain != hinted


def test_a_prompt_with_audio_is_completed(make):
    llm = make()
    prompt = {"prompt": "<|startoftranscript|><|en|><|notimestamps|>", "multi_modal_data": {"audio": (sound(0), 16000)}}
    (output,) = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=5, ignore_eos=True), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 5
    both = {"encoder_prompt": {"prompt": "", "multi_modal_data": prompt["multi_modal_data"]}}
    (again,) = llm.generate(
        {**both, "decoder_prompt": prompt["prompt"]},
        SamplingParams(temperature=0, max_tokens=5, ignore_eos=True),
        use_tqdm=False,
    )
    assert again.outputs[0].token_ids == output.outputs[0].token_ids


def test_prompts_that_do_not_fit_the_model_are_refused(make, tiny):
    llm = make()
    with pytest.raises(PromptError, match="needs audio"):
        llm.generate("text alone", use_tqdm=False)
    audio = {"audio": (np.zeros(31 * 16000, np.float32), 16000)}
    with pytest.raises(PromptError, match="at most 30 s"):
        llm.generate({"prompt": "<|startoftranscript|>", "multi_modal_data": audio}, use_tqdm=False)
    with pytest.raises(PromptError, match="this model reads audio"):
        llm.generate({"prompt": "x", "multi_modal_data": {"image": 1}}, use_tqdm=False)
    with pytest.raises(UnsupportedError, match="Whisper"):
        LLM(str(tiny[0]), dtype="float32").transcribe(sound(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "klingon"}, "fi"),
        ({"task": "summarise"}, "task"),
        ({"temperature": 1.5}, "temperature"),
        ({"beam_size": 0}, "beam_size"),
        ({"sequential": True, "timestamps": False}, "sequential"),
    ],
)
def test_options_out_of_range_are_refused(make, options, message):
    with pytest.raises(ParameterError, match=message):
        make().transcribe(sound(0), **options)


def test_repetition_compresses():
    assert compression_ratio("") == 0
    assert compression_ratio("no, " * 50) > 2.4 > compression_ratio("The stale smell of old beer lingers.")


def test_a_text_that_is_tried_again_begins_behind_its_prompt(make, monkeypatch):
    llm, room = make(), 448 - 3
    step, num_steps = llm.engine.step, 0

    def count():
        nonlocal num_steps
        num_steps += 1
        assert num_steps < 7 * room, "it never ends"
        return step()

    monkeypatch.setattr(llm.engine, "step", count)
    result = llm.transcribe(sound(0), compression_ratio_threshold=0.0, logprob_threshold=None, language="de")
    assert 0 < sum(len(segment.tokens) for segment in result.segments) <= room
    assert not llm.engine.has_work


def test_no_sound_is_heard_in_the_place_of_another(tmp_path):
    """Sources come and go, and those that come get the memory of those that have gone."""
    deep = make_tiny_whisper(tmp_path / "deep", decoder_layers=2)  # the second layer's keys depend on the sound
    options = {"prompt": "a long prompt fills whole blocks of the cache " * 2, "language": "de"}
    cached, uncached = (LLM(str(deep), dtype="float32", enable_prefix_caching=on) for on in (True, False))
    expected = [transcripts(uncached, [sound(seed, 1.0)], **options) for seed in range(12)]
    for _ in range(3):
        assert [transcripts(cached, [sound(seed, 1.0)], **options) for seed in range(12)] == expected
    assert len({text for ((text, _),) in expected}) > 6
    assert cached.engine.scheduler.num_prefix_hits > 0, "an equal sound shares its prompt's blocks"


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_small_steps_give_words_the_same_times(make, executor):
    expected = words_of(make(executor=executor))
    assert len(expected[1]) > 3
    for max_num_batched_tokens in (8, 64):
        found = words_of(make(executor=executor, max_num_batched_tokens=max_num_batched_tokens))
        assert found == expected if executor == "native" else found[0] == expected[0]


@pytest.mark.parametrize("executor", ["native", "torch"])
@pytest.mark.parametrize("timestamps", [False, True])
def test_the_average_log_probability_is_that_of_what_the_rules_allow(make, executor, timestamps):
    """As Whisper's own program has it: of all tokens with the end, whether it was written or not."""
    llm = make(executor=executor)
    submit(llm, "greedy", sound(0), timestamps=timestamps, language="de")
    submit(llm, "beams", sound(0), timestamps=timestamps, language="de", beam_size=2)
    for output in run(llm).values():
        (completion,), end = output.outputs, llm.model.reader.tokens.end
        found = [entry[token].logprob for token, entry in zip(completion.token_ids, completion.logprobs, strict=True)]
        num_text = sum(token != end for token in completion.token_ids)
        assert output.details.avg_logprob == pytest.approx(sum(found) / (num_text + 1))
        assert len(set(found)) > 1
        if timestamps:  # a text begins with one of the first 51 times, however unlikely the model finds them all
            assert found[0] > -np.log(51) - 1e-6


def test_beams_of_one_are_as_likely_as_the_greedy_text(make):
    """Two beams whose best is the greedy text give it the same log-probabilities, token for token."""
    llm, found = make(), []
    for beam_size in (1, 2):
        for seed in range(6):
            submit(llm, f"{beam_size} {seed}", sound(seed), timestamps=True, language="de", beam_size=beam_size)
    outputs = run(llm)
    for seed in range(6):
        greedy, beams = (outputs[f"{size} {seed}"] for size in (1, 2))
        if greedy.outputs[0].token_ids == beams.outputs[0].token_ids:
            found.append(seed)
            assert beams.details.avg_logprob == pytest.approx(greedy.details.avg_logprob, abs=1e-4)
    assert found, "no seed has a greedy text that is the best of two beams"


def test_a_prompt_leaves_half_of_a_small_context_to_the_text(make):
    llm = make(max_model_len=64)
    result = llm.transcribe(sound(0), prompt="Rapperswil, Zürich and many more " * 9, temperature=0.0, **ANYTHING)
    assert sum(len(segment.tokens) for segment in result.segments) > 16


def test_a_context_without_room_for_a_text_is_refused_with_the_numbers(make):
    with pytest.raises(PromptTooLongError, match="maximum context length is 4 tokens, but the prompt has 4"):
        make(max_model_len=4).transcribe(sound(0), timestamps=False)


def test_a_text_has_no_more_tokens_than_its_sound_can_have(make):
    llm = make()
    banned = (llm.model.reader.tokens.end,)
    step, num_steps = llm.engine.step, 0

    def count():
        nonlocal num_steps
        num_steps += 1
        return step()

    llm.engine.step = count
    limits = {"logprob_threshold": 0.0, "no_speech_threshold": None, "compression_ratio_threshold": 0.0}
    speech = llm.model.reader
    task = SpeechTask(
        speech=replace(speech, suppressed_ids=banned),
        options=TranscribeOptions(timestamps=False, **limits),
        language="de",
        num_positions=50,
    )
    assert task.longest_text == SPARE_TOKENS + TOKENS_PER_SECOND
    llm.engine.submit(
        "a",
        Prompt(None, speech.source(sound(0, 1.0)), task.opening, job=task.job),
        SamplingParams(logprobs=0, max_tokens=None),
    )
    output = run(llm)["a"]
    assert len(output.outputs[0].token_ids) <= task.longest_text
    assert num_steps < (len(TEMPERATURES) + 1) * task.longest_text


@pytest.mark.parametrize("executor", ["native", "torch"])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_model_whose_every_token_is_suppressed_writes_none(make, executor, beam_size):
    llm = make(executor=executor)
    submit(llm, "a", sound(0), suppressed_ids=tuple(range(llm.model.vocab_size)), beam_size=beam_size, language="de")
    assert isinstance(run(llm)["a"].error, NumericalError)


@pytest.mark.parametrize("options", [{}, {"beam_size": 2}, {"sequential": True}])
def test_words_lie_in_their_segment_in_order_and_each_has_its_own_probability(make, options):
    llm = make()
    for seed in range(4):
        audio = sound(seed, 6.0)
        result = llm.transcribe(audio, word_timestamps=True, temperature=0.0, language="de", **ANYTHING, **options)
        assert result.words
        for segment in result.segments:
            times = [time for word in segment.words for time in (word.start, word.end)]
            assert times == sorted(times)
            assert not times or (segment.start, segment.end) == (times[0], times[-1])
        assert len({word.probability for word in result.words}) > 1
