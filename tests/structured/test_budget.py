"""Thinking ends in time, and structure begins after it."""

import pytest

from octavo import SamplingParams
from octavo.request import Prompt
from octavo.structured.grammar import choice, sequence, until

END = "</think>"


@pytest.fixture
def think(llm):
    """The text of a prompt that may think for so many tokens, and all the tokens of it."""

    def think(num_tokens, begin=None, grammar=None, **params):
        made = None if grammar is None else llm.model.grammars.compile(grammar, "test")
        budget = llm.model.grammars.within_budget(num_tokens, END, begin, made)
        prompt = Prompt(None, llm.model.tokenizer.encode("Ask not")).extended(grammar=budget)
        asked = SamplingParams(**{"max_tokens": 40, "seed": 1, "ignore_eos": True, **params})
        (output,) = llm.generate([prompt], asked, use_tqdm=False)
        (completion,) = output.outputs
        return completion.text, completion.token_ids

    return think


@pytest.mark.parametrize("num_tokens", [0, 1, 7])
@pytest.mark.parametrize("options", [{}, {"logprobs": 0}, {"logit_bias": {9: 1.0}}])
def test_thinking_ends_in_time(llm, think, num_tokens, options):
    text, ids = think(num_tokens, **options)
    thought = llm.model.tokenizer.decode(ids[:num_tokens])
    assert text.startswith(f"{thought}{END}")
    assert text.count(END) == 1
    assert len(ids) == 40


def test_what_does_not_think_has_no_end_of_it(think):
    free, ids = think(3, begin="<think>")
    assert END not in free
    assert len(ids) == 40


def test_an_end_of_its_own_is_an_end(llm, think):
    text, _ = think(30, grammar=sequence(choice([f"so{END}"]), choice(["yes", "no"])))
    assert text in (f"so{END}yes", f"so{END}no")


def test_structure_begins_after_the_thinking(llm, think):
    grammar = sequence(until(END), choice(["yes", "no"]))
    told = {options: think(5, grammar=grammar, **dict(options)) for options in ((), (("logprobs", 0),))}
    for text, ids in told.values():
        thought, answer = text.split(END)
        assert thought == llm.model.tokenizer.decode(ids[:5])
        assert answer in ("yes", "no")
    assert told[()] == told[(("logprobs", 0),)]


def test_a_beginning_in_the_text_is_counted_from(think):
    grammar = sequence(choice(["well <think>"]), until(END), choice(["yes"]))
    text, _ = think(4, begin="<think>", grammar=grammar)
    assert text.startswith("well <think>")
    assert text.endswith(f"{END}yes")
