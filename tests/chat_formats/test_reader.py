"""Answers of every format: what is read of them does not depend on where they are cut, and nothing of them is lost."""

import json
import random

import pytest

from chat_formats.written import FORMATS, TOOLS, chat_format, random_calls, read, written
from octavo.chat_formats.parts import CallArguments, CallBegin
from octavo.chat_formats.tools import ToolUse

USE = ToolUse(callable=TOOLS)
NUM_ANSWERS = 200


def reader(name, thinking=None, prompt="", use=USE):
    return chat_format(name, thinking).reader(prompt, use)


def answers(name, count=NUM_ANSWERS):
    """(text, content, calls) of answers in a format."""
    rng = random.Random(name)
    calls = FORMATS[name]
    for _ in range(count):
        made = random_calls(rng, 3 if calls.is_parallel else 1)
        content = (
            rng.choice(["", "Let me look.", "a < b\n\nand [1] {2}"]) if calls.marks and "" not in calls.begins else ""
        )
        before = f"{content}\n" if content else ""
        if content and name == "harmony":
            before = f"<|channel|>commentary<|message|>{content}<|end|><|start|>assistant"
        yield before + written(calls, made, rng), content, made


@pytest.mark.parametrize("name", FORMATS)
def test_answers_are_read_as_they_were_meant_wherever_they_are_cut(name):
    for text, content, made in answers(name):
        whole = read(reader(name), text)
        assert whole.content == content, text
        assert [(call.name, json.loads(call.arguments)) for call in whole.calls] == made, text
        assert read(reader(name), text, range(1, len(text))) == whole


@pytest.mark.parametrize("name", FORMATS)
def test_answers_may_be_cut_in_two_at_any_place(name):
    for text, _, _ in answers(name, 4):
        whole = read(reader(name), text)
        for place in range(len(text)):
            assert read(reader(name), text, [place]) == whole


@pytest.mark.parametrize("name", FORMATS)
def test_calls_are_told_in_their_order_each_begun_once_before_its_arguments(name):
    for text, _, made in answers(name, 20):
        reading = reader(name)
        parts = [part for char in text for part in reading.feed(char)] + reading.end()
        begins = [part for part in parts if isinstance(part, CallBegin)]
        assert [part.index for part in begins] == list(range(len(made)))
        assert len({part.id for part in begins}) == len(made)
        told = [part.index for part in parts if isinstance(part, CallBegin | CallArguments)]
        assert told == sorted(told)
