"""What a directory of Whisper may say of tokens, heads and sizes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.errors import ModelLoadError
from octavo.speech.model import MAX_SUPPRESSED, SpeechModel
from octavo.weights.config_reader import ConfigReader

from .test_tokens import TEXT, VOCAB_SIZE, tokenizer

CONFIG = {"decoder_layers": 4, "decoder_attention_heads": 2, "is_multilingual": True}


def model(vocab_size: int = VOCAB_SIZE, **changes: Any) -> SpeechModel:
    return SpeechModel.of(tokenizer(), vocab_size, ConfigReader.of_file({**CONFIG, **changes}, "config.json"))


def test_what_is_not_said_has_the_usual_values() -> None:
    found = model()
    assert (found.num_mel_bins, found.source_positions) == (80, 1500)
    assert found.suppressed_ids == found.suppressed_first_ids == ()
    assert found.alignment_heads == model(alignment_heads=[]).alignment_heads == ((2, 0), (2, 1), (3, 0), (3, 1))


def test_lists_are_taken_once_and_without_their_minus_one() -> None:
    found = model(suppress_tokens=[-1, 3, 2, 3], begin_suppress_tokens=[4], alignment_heads=[[3, 1], [3, 1]])
    assert found.suppressed_ids == (3, 2)
    assert found.suppressed_first_ids == (4,)
    assert found.alignment_heads == ((3, 1),)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("suppress_tokens", value) for value in (7, "7", [True], [None], [[1]], [-2], [VOCAB_SIZE], {"1": 1})),
        *(("begin_suppress_tokens", value) for value in ([True], [1.0], 3)),
        *(("alignment_heads", value) for value in (1, "x", {}, [1], [[1]], [[0, 2]], [[4, 0]], [[-1, 0]], [[0, True]])),
        ("is_multilingual", "yes"),
        ("max_target_positions", "448"),
        ("max_target_positions", [448]),
        *(("max_source_positions", value) for value in (750, 0, "1500")),
        *(("num_mel_bins", value) for value in (81, -1, "80")),
        ("decoder_layers", [4]),
    ],
)
def test_a_malformed_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ModelLoadError) as raised:
        model(**{field: value})
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("suppressed", "first"),
    [
        (range(TEXT), ()),  # all text
        ((TEXT,), ()),  # the end
        (range(0, TEXT, 2), range(1, TEXT, 2)),  # all that a text may begin with
    ],
)
def test_a_model_must_be_able_to_begin_and_to_end(suppressed: Any, first: Any) -> None:
    with pytest.raises(ModelLoadError, match="must leave") as raised:
        model(suppress_tokens=[*suppressed], begin_suppress_tokens=[*first])
    assert raised.value.field == "suppress_tokens"


def test_a_list_far_longer_than_any_models_is_refused() -> None:
    many = [*range(TEXT + 20, TEXT + 21 + MAX_SUPPRESSED)]
    with pytest.raises(ModelLoadError, match=f"has {MAX_SUPPRESSED + 1} tokens; at most {MAX_SUPPRESSED}"):
        model(VOCAB_SIZE + 2 * MAX_SUPPRESSED, suppress_tokens=many)


def test_a_control_token_beyond_the_vocabulary_is_refused() -> None:
    backend = tokenizer()
    backend.token_id = lambda token: 9999 if token == "<|endoftext|>" else TEXT  # type: ignore[method-assign]
    with pytest.raises(ModelLoadError, match="has id 9999, beyond the model's vocabulary") as raised:
        SpeechModel.of(backend, VOCAB_SIZE, ConfigReader.of_file(CONFIG, "config.json"))
    assert raised.value.field == "<|endoftext|>"
