"""A prompt is its parts: token ids, and a source, wherever it stands among them."""

import numpy as np
import pytest

from octavo.errors import PromptError
from octavo.request import CacheScope, Prompt, Request, Source
from octavo.sampling_params import SamplingParams


def source(value=0.0):
    return Source(np.full((2, 3), value, np.float32), 1)


def test_the_tokens_and_the_source_of_a_prompt_are_those_of_its_parts():
    sound = source()
    for prompt in (Prompt(None, sound, [1, 2], (3,)), Prompt(None, [1, 2], sound, [3]), Prompt(None, [1, 2, 3], sound)):
        assert prompt.token_ids == [1, 2, 3]
        assert prompt.source is sound
        request = Request("a", prompt, SamplingParams())
        assert request.sequences[0].tokens == [1, 2, 3]
        assert request.sequences[0].tokens is not prompt.token_ids, "what is generated must not go into the prompt"
    assert Prompt(None, [1]).source is None
    assert Prompt(None, sound).token_ids == []


def test_a_prompt_that_is_extended_keeps_what_it_had():
    first = Prompt("a", source(), [1, 2], cache_salt="mine", job=list)
    longer = first.extended([3])
    assert (first.token_ids, longer.token_ids) == ([1, 2], [1, 2, 3])
    assert (longer.text, longer.source, longer.job, longer.scope) == ("a", first.source, list, first.scope)
    assert first.extended(cache_salt="theirs").scope == CacheScope("theirs", first.source.digest)
    assert first.extended(cache_salt=None).scope == first.scope


def test_prompts_of_different_sources_share_no_prefixes():
    assert Prompt(None, source(), [1]).scope == Prompt(None, source(), [2]).scope
    assert Prompt(None, source(), [1]).scope != Prompt(None, source(1.0), [1]).scope
    assert Prompt(None, source(), [1]).scope != Prompt(None, [1]).scope


def test_two_sources_are_refused():
    with pytest.raises(PromptError, match=r"2 sources.*take one"):
        Prompt(None, source(), [1], source(1.0))
