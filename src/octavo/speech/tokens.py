"""The tokens by which Whisper is told what to do, and tells when something was said."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.errors import ModelLoadError, ParameterError
from octavo.speech.languages import LANGUAGES, language_code
from octavo.text.tokenizer import Tokenizer
from octavo.weights.config_reader import ConfigReader

TASKS = ("transcribe", "translate")
TIMESTAMP_STEP = 0.02  # seconds between <|0.00|> and <|0.02|>
NUM_TIMESTAMPS = 1501  # up to <|30.00|>, the length of a window
_MULTILINGUAL_TOKENS = 51865  # models for English only have fewer


class SpeechTokens:
    """Ids of a Whisper's control tokens.

    A transcript begins with `start`, which `prompt` builds upon, and ends with `end`. `languages` maps codes to tokens,
    and is empty if the model knows only English. `no_speech` is never written: its probability at the place after
    `start` says that nobody speaks. Timestamps go from `first_timestamp` to `last_timestamp`; many tokenizers do not
    have them, only the model does. All ids below `end` are text.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, config: ConfigReader):
        """`config` is config.json and generation_config.json in one; either may say nothing of what is read here.

        Raises ModelLoadError if a token is missing, or beyond the model's vocabulary.
        """
        self.tokenizer, self._vocab_size = tokenizer, vocab_size
        self.end = self._id("<|endoftext|>")
        self.start = self._id("<|startoftranscript|>")
        self.start_of_previous = self._id("<|startofprev|>")
        self.no_speech = self._id("<|nospeech|>", "<|nocaptions|>")
        self.no_timestamps = self._id("<|notimestamps|>")
        self.first_timestamp = self.no_timestamps + 1
        self.last_timestamp = self.first_timestamp + NUM_TIMESTAMPS - 1
        if self.last_timestamp >= vocab_size or tokenizer.token_id("<|0.00|>") not in (None, self.first_timestamp):
            reason = f"{NUM_TIMESTAMPS} timestamps must follow after it in the vocabulary of {vocab_size} tokens"
            raise ModelLoadError("tokenizer", "<|notimestamps|>", reason)
        self.tasks = {task: self._id(f"<|{task}|>") for task in TASKS}
        self.is_multilingual = config.flag("is_multilingual", vocab_size >= _MULTILINGUAL_TOKENS)
        found = {code: tokenizer.token_id(f"<|{code}|>") for code in LANGUAGES if self.is_multilingual}
        self.languages = {code: token for code, token in found.items() if token is not None and token < vocab_size}
        self.max_previous_tokens = config.integer("max_target_positions", 448) // 2  # with <|startofprev|>

    def prompt(
        self,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = False,
        previous_tokens: Sequence[int] = (),
    ) -> list[int]:
        """What the decoder is given to begin with; it goes on with the transcript.

        `previous_tokens` are what was said before, or a hint of names and style; of a long one the end is kept.
        `language` is a code or an English name, and can't be left out if the model knows several. Raises
        ParameterError.
        """
        code = self.language(language)
        self._check_task(task)
        kept = list(previous_tokens)[-(self.max_previous_tokens - 1) :]
        tokens = [self.start_of_previous, *kept, self.start] if kept else [self.start]
        if self.is_multilingual:
            tokens += [self.languages[code], self.tasks[task]]
        return tokens if timestamps else [*tokens, self.no_timestamps]

    def language(self, name: str | None) -> str:
        """The code of a language that the model knows, from its code or English name; None is English where that is
        all. Raises ParameterError.
        """
        code = None if name is None else language_code(name)
        if not self.is_multilingual:
            if name is not None and code != "en":
                raise ParameterError("language", name, "English, the only language of this model")
            return "en"
        if code is None or code not in self.languages:
            known = ", ".join(f"{code} ({LANGUAGES[code]})" for code in self.languages)
            raise ParameterError("language", name, f"one of {known}")
        return code

    def timestamp(self, token: int) -> float | None:
        """The seconds since the start of the window that a token stands for; None if it is no timestamp."""
        if not self.first_timestamp <= token <= self.last_timestamp:
            return None
        return round((token - self.first_timestamp) * TIMESTAMP_STEP, 2)

    def is_text(self, token: int) -> bool:
        """Whether it is a part of what was said."""
        return token < self.end

    def _check_task(self, task: str) -> None:
        if task not in TASKS:
            raise ParameterError("task", task, f"one of {', '.join(TASKS)}")
        if task == "translate" and not self.is_multilingual:
            raise ParameterError("task", task, "transcribe: this model knows only English")

    def _id(self, *names: str) -> int:
        """The id of a token that goes by one of these names."""
        for name in names:
            if (found := self.tokenizer.token_id(name)) is not None:
                if found >= self._vocab_size:
                    reason = f"has id {found}, beyond the model's vocabulary of {self._vocab_size} tokens"
                    raise ModelLoadError("tokenizer", name, reason)
                return found
        raise ModelLoadError("tokenizer", names[0], "is missing: this is not the tokenizer of a Whisper model")
