"""Windows of speech at the engine, with a Whisper whose text makes no sense."""

import numpy as np
import pytest

from octavo import LLM
from speech.tiny_whisper import make_tiny_whisper

ROOM = 448 - 3  # tokens behind <|startoftranscript|>, the language and the task


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return LLM(str(make_tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny")), dtype="float32")


def babble(seconds=2.0):
    """Noise that comes and goes, as speech does: float32 [n]."""
    rng, time = np.random.default_rng(0), np.arange(round(16_000 * seconds)) / 16_000
    return (0.3 * rng.standard_normal(len(time)) * np.sin(5 * time)).astype(np.float32)


def test_a_text_that_is_tried_again_begins_behind_its_prompt(whisper, monkeypatch):
    step, num_steps = whisper.engine.step, 0

    def count():
        nonlocal num_steps
        num_steps += 1
        assert num_steps < 7 * ROOM, "it never ends"
        return step()

    monkeypatch.setattr(whisper.engine, "step", count)
    result = whisper.transcribe(babble(), compression_ratio_threshold=0.0, logprob_threshold=None, language="de")
    assert 0 < sum(len(segment.tokens) for segment in result.segments) <= ROOM
    assert not whisper.engine.has_work
