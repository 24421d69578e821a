"""What Whisper is told: prompts, languages, tasks, and what its timestamps mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, models

from octavo.errors import ModelLoadError, ParameterError
from octavo.speech.languages import LANGUAGES, OTHER_NAMES, language_code
from octavo.speech.tokens import SpeechTokens
from octavo.text.tokenizer import Tokenizer
from octavo.text.tokenizer_files import read_tokenizer
from octavo.weights import open_checkpoint
from octavo.weights.config_reader import ConfigReader

TEXT = 100  # tokens of text, before the others
CONTROL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in ("en", "zh", "de")),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
]
VOCAB_SIZE = TEXT + len(CONTROL) + 1501


def tokenizer(control: list[str] = CONTROL) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({chr(256 + i): i for i in range(TEXT)}, []))
    backend.add_tokens([AddedToken(token, special=True) for token in control])
    return Tokenizer(backend)


def reader(config: dict[str, Any]) -> ConfigReader:
    return ConfigReader.of_file(config, "config.json")


def speech(multilingual: bool | None = True, vocab_size: int = VOCAB_SIZE, **config: Any) -> SpeechTokens:
    return SpeechTokens(tokenizer(), vocab_size, reader({"is_multilingual": multilingual, **config}))


def ids(*texts: str) -> list[int]:
    return [TEXT + CONTROL.index(f"<|{text}|>") for text in texts]


def test_a_prompt_names_the_language_the_task_and_whether_there_are_timestamps() -> None:
    tokens = speech()
    assert tokens.prompt("de") == ids("startoftranscript", "de", "transcribe", "notimestamps")
    assert tokens.prompt("de", "translate", timestamps=True) == ids("startoftranscript", "de", "translate")


def test_a_model_for_english_is_told_neither_language_nor_task() -> None:
    tokens = speech(multilingual=False)
    assert tokens.languages == {}
    for language in (None, "en", "English"):
        assert tokens.prompt(language, timestamps=True) == ids("startoftranscript")
        assert tokens.prompt(language) == ids("startoftranscript", "notimestamps")


def test_previous_text_comes_first_and_takes_half_of_the_context_at_most() -> None:
    tokens = speech()
    assert tokens.prompt("en", previous_tokens=[5, 6]) == [*ids("startofprev"), 5, 6, *tokens.prompt("en")]
    long = list(range(100)) * 5
    prompt = tokens.prompt("en", previous_tokens=long)
    assert prompt == [*ids("startofprev"), *long[-223:], *tokens.prompt("en")]
    assert prompt.index(tokens.start) == 448 // 2
    short = speech(max_target_positions=64).prompt("en", previous_tokens=long)
    assert short.index(tokens.start) == 32


@pytest.mark.parametrize("name", ["de", "DE", "german", "German", " GERMAN "])
def test_a_language_goes_by_its_code_or_name_in_any_case(name: str) -> None:
    assert speech().language(name) == "de"


@pytest.mark.parametrize("name", ["fr", "french", "klingon", "", None, "<|de|>", "de-AT"])
def test_a_language_that_the_model_does_not_know_is_refused_with_those_it_knows(name: str | None) -> None:
    with pytest.raises(ParameterError, match=r"en \(English\), .*got") as raised:
        speech().prompt(name)
    assert raised.value.name == "language"
    assert "de (German)" in str(raised.value)


@pytest.mark.parametrize("name", ["de", "German", "klingon", ""])
def test_a_model_for_english_refuses_other_languages(name: str) -> None:
    with pytest.raises(ParameterError, match="language must be English"):
        speech(multilingual=False).prompt(name)


def test_a_model_for_english_refuses_to_translate() -> None:
    with pytest.raises(ParameterError, match="task must be transcribe"):
        speech(multilingual=False).prompt("en", "translate")


@pytest.mark.parametrize("multilingual", [True, False])
def test_an_unknown_task_is_refused(multilingual: bool) -> None:
    with pytest.raises(ParameterError, match="one of transcribe, translate, got 'summarize'"):
        speech(multilingual).prompt("en", "summarize")


def test_timestamps_follow_after_the_control_tokens_in_steps_of_20_ms() -> None:
    tokens = speech()
    first = tokens.first_timestamp
    assert first == VOCAB_SIZE - 1501
    assert [tokens.timestamp(first + i) for i in (0, 1, 7, 1499, 1500)] == [0.0, 0.02, 0.14, 29.98, 30.0]
    assert [tokens.timestamp(i) for i in (0, first - 1, first + 1501, -1)] == [None] * 4
    assert [tokens.is_text(i) for i in (0, TEXT - 1, TEXT, first)] == [True, True, False, False]


def test_the_token_of_silence_goes_by_both_of_its_names() -> None:
    renamed = [token.replace("nospeech", "nocaptions") for token in CONTROL]
    assert SpeechTokens(tokenizer(renamed), VOCAB_SIZE, reader({})).no_speech == speech().no_speech


def test_without_a_generation_config_the_vocabulary_says_whether_there_are_several_languages() -> None:
    assert not speech(None, 51864).is_multilingual
    assert speech(None, 51865).is_multilingual


@pytest.mark.parametrize("name", ["endoftext", "startoftranscript", "translate", "startofprev", "nospeech"])
def test_a_tokenizer_that_lacks_a_control_token_is_refused(name: str) -> None:
    control = [token for token in CONTROL if token != f"<|{name}|>"]
    with pytest.raises(ModelLoadError) as raised:
        SpeechTokens(tokenizer(control), VOCAB_SIZE, reader({}))
    assert raised.value.field == f"<|{name}|>"


def test_a_model_knows_the_languages_that_its_tokenizer_has() -> None:
    assert speech().languages == dict(zip(["en", "zh", "de"], ids("en", "zh", "de"), strict=True))


def test_timestamps_that_are_not_where_they_belong_are_refused() -> None:
    with pytest.raises(ModelLoadError, match="1501 timestamps must follow"):
        speech(vocab_size=VOCAB_SIZE - 1)
    with pytest.raises(ModelLoadError, match="1501 timestamps must follow"):
        SpeechTokens(tokenizer([*CONTROL, "<|x|>", "<|0.00|>"]), VOCAB_SIZE + 1, reader({}))


def test_the_languages_are_those_of_transformers() -> None:
    whisper = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    assert {code: name.lower() for code, name in LANGUAGES.items()} == whisper.LANGUAGES
    for name, code in whisper.TO_LANGUAGE_CODE.items():
        assert language_code(name) == code
    assert set(OTHER_NAMES.values()) <= set(LANGUAGES)


def test_tiny_en_has_the_tokens_that_it_was_trained_with(whisper_model: Path) -> None:
    config = open_checkpoint(whisper_model).config
    tokens = SpeechTokens(read_tokenizer(whisper_model), config["vocab_size"], reader(config))
    assert not tokens.is_multilingual
    assert (tokens.end, tokens.start, tokens.start_of_previous) == (50256, 50257, 50360)
    assert (tokens.no_speech, tokens.no_timestamps) == (50361, 50362)
    assert (tokens.first_timestamp, tokens.last_timestamp) == (50363, 51863)
    assert tokens.prompt("english") == [50257, 50362]
