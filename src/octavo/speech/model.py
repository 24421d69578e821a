"""What a speech model has besides its graphs: control tokens, banned tokens, and how it reads sounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.config import EngineConfig
from octavo.engine.inputs import read_prompt
from octavo.errors import ConfigError, PromptError
from octavo.request import Prompt, Source
from octavo.speech.mel import WINDOW_FRAMES, WINDOW_SAMPLES, WINDOW_SECONDS, window_features
from octavo.speech.sources import samples_of
from octavo.speech.tokens import SpeechTokens
from octavo.text.tokenizer import Tokenizer
from octavo.weights.config_reader import ConfigReader

# What generation_config.json may say of a speech model; all else of it is in config.json, as the weights are.
GENERATION_FIELDS = ("is_multilingual", "suppress_tokens", "begin_suppress_tokens", "alignment_heads")
MEL_BINS = (80, 128)
POSITIONS = WINDOW_FRAMES // 2  # of the encoder, for a window
MAX_SUPPRESSED = 4096  # every Whisper that was published has about 90


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """Reads the prompts of a speech model, see `octavo.engine.inputs.PromptReader`.

    `suppressed_ids` are never written, `suppressed_first_ids` not first; `alignment_heads` are (layer, head).
    """

    tokens: SpeechTokens
    num_mel_bins: int
    source_positions: int  # of a window of 30 s in the encoder's output
    suppressed_ids: tuple[int, ...]
    suppressed_first_ids: tuple[int, ...]
    alignment_heads: tuple[tuple[int, int], ...]

    @classmethod
    def load(
        cls, options: EngineConfig, tokenizer: Tokenizer, vocab_size: int, config: ConfigReader, defaults: ConfigReader
    ) -> SpeechModel:
        """Raises ModelLoadError, or ConfigError where the model can't do the `task` that `options` ask for."""
        said = {name: value for name, value in defaults.values.items() if name in GENERATION_FIELDS}
        both = ConfigReader(
            {**config.values, **said}, lambda field, reason: (defaults if field in said else config).fail(field, reason)
        )
        model = cls.of(tokenizer, vocab_size, both)
        if options.task in ("translation", "translate") and not model.tokens.is_multilingual:
            raise ConfigError("task", options.task, "this model knows only English; load one without .en in its name")
        return model

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int, config: ConfigReader) -> SpeechModel:
        """From config.json, with what generation_config.json says of GENERATION_FIELDS. Raises ModelLoadError."""
        tokens = SpeechTokens(tokenizer, vocab_size, config)
        if (num_mel_bins := config.integer("num_mel_bins", 80)) not in MEL_BINS:
            raise config.fail("num_mel_bins", f"must be {' or '.join(map(str, MEL_BINS))}, got {num_mel_bins}")
        if (positions := config.integer("max_source_positions", POSITIONS)) != POSITIONS:
            raise config.fail("max_source_positions", f"must be {POSITIONS}, which are 30 s, got {positions}")
        suppressed = _suppressed(config, "suppress_tokens", vocab_size)
        first = _suppressed(config, "begin_suppress_tokens", vocab_size)
        if tokens.end in suppressed or set(suppressed).union(first).issuperset(range(tokens.end)):
            raise config.fail("suppress_tokens", "must leave the model the end of a text and a token to begin it with")
        return cls(tokens, num_mel_bins, positions, suppressed, first, _alignment_heads(config))

    def source(self, samples: NDArray[np.float32]) -> Source:
        """What the encoder reads of up to 30 s of mono samples at 16 kHz; the rest of a window is silence."""
        features = window_features(samples, self.num_mel_bins)
        return Source(np.ascontiguousarray(features.T), self.source_positions)

    def read(self, prompt: Any) -> Prompt:
        """A prompt as for a model of text, whose "multi_modal_data" says {"audio": (samples, rate)} beside it.

        Samples at 16 kHz need no rate. The form that names encoder and decoder is taken too. Raises PromptError.
        """
        tokenizer = self.tokens.tokenizer
        if not isinstance(prompt, Mapping):
            return read_prompt(prompt, tokenizer)
        given = dict(prompt)
        if "encoder_prompt" in given and "decoder_prompt" in given:
            encoder, decoder = given.pop("encoder_prompt"), given.pop("decoder_prompt")
            given |= {**(encoder if isinstance(encoder, Mapping) else {}), "prompt": decoder}
        audio = given.pop("multi_modal_data", None)
        if not isinstance(audio, Mapping) or set(audio) != {"audio"}:
            raise PromptError("multi_modal_data must be {'audio': (samples, rate)}: this model reads audio")
        samples = samples_of(audio["audio"][0] if isinstance(audio["audio"], list) else audio["audio"])
        if len(samples) > WINDOW_SAMPLES:
            seconds = f"{len(samples) / WINDOW_SAMPLES * WINDOW_SECONDS:.1f}"
            raise PromptError(
                f"audio: a prompt has at most {WINDOW_SECONDS} s, got {seconds}; LLM.transcribe takes any length"
            )
        text = given.get("prompt")
        if isinstance(text, str) and text:
            read = Prompt(text, tokenizer.encode(text, add_special_tokens=False))
        else:
            read = read_prompt(given, tokenizer)
        return read.extended(self.source(samples))


def _alignment_heads(config: ConfigReader) -> tuple[tuple[int, int], ...]:
    """Those that follow the sound; where nobody says which, they are among the second half of the decoder's."""
    layers, heads = config.integer("decoder_layers"), config.integer("decoder_attention_heads")
    given = config.values.get("alignment_heads")
    if not given and (given is None or isinstance(given, list)):
        return tuple((layer, head) for layer in range(layers // 2, layers) for head in range(heads))
    if not isinstance(given, list) or not all(_is_head(head, layers, heads) for head in given):
        raise config.fail("alignment_heads", f"must be pairs of one of {layers} layers and one of its {heads} heads")
    return tuple(dict.fromkeys((layer, head) for layer, head in given))


def _is_head(pair: Any, layers: int, heads: int) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(
            type(number) is int and 0 <= number < limit for number, limit in zip(pair, (layers, heads), strict=True)
        )
    )


def _suppressed(config: ConfigReader, field: str, vocab_size: int) -> tuple[int, ...]:
    """The tokens of a list; some files have -1 in it."""
    ids = dict.fromkeys(config.integers(field, low=-1, high=vocab_size - 1))
    if len(ids) > MAX_SUPPRESSED:
        raise config.fail(field, f"has {len(ids)} tokens; at most {MAX_SUPPRESSED} are accepted")
    return tuple(token for token in ids if token >= 0)
