"""vLLM's `PoolingParams`, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.errors import ParameterError

TASKS = ("embed", "token_embed", "classify", "score", "token_classify", "embed&token_classify")


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """How the rows of a text become what is returned; names and meaning are vLLM's. Raises ParameterError.

    `task` is "embed", a vector of the text, or "token_embed", one of each token; "classify" or "score", the scores of a
    text's labels; or "token_classify", those of each token. BGE-M3 has "embed&token_classify" besides, both in one.
    """

    task: str | None = None  # None: what the method that it is given to does
    dimensions: int | None = None  # so many of the first, of models that were trained for that (matryoshka)
    normalize: bool | None = None  # make vectors as long as 1; None: as the model says
    use_activation: bool | None = None  # make probabilities of scores; also a newer name of `normalize`
    truncate_prompt_tokens: int | None = None  # cut texts to so many tokens; -1: to what the model can read
    step_tag_id: int | None = None  # of a model that rewards steps: the token that ends one
    returned_token_ids: list[int] | None = None  # of what is said of each token: these columns

    def __post_init__(self) -> None:
        if self.task not in (None, *TASKS):
            raise ParameterError("task", self.task, f"one of {', '.join(TASKS)}")
        for name, low in (("dimensions", 1), ("truncate_prompt_tokens", -1), ("step_tag_id", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < low or (low < 0 and value == 0)):
                known = "an integer of at least 1, or -1" if low < 0 else f"an integer of at least {low}"
                raise ParameterError(name, value, known)
        if self.returned_token_ids is not None and not _are_ids(self.returned_token_ids):
            raise ParameterError("returned_token_ids", self.returned_token_ids, "a list of integers of at least 0")
        for name in ("normalize", "use_activation"):
            if getattr(self, name) not in (None, True, False):
                raise ParameterError(name, getattr(self, name), "true or false")
        if None not in (self.normalize, self.use_activation) and self.normalize != self.use_activation:
            raise ParameterError("use_activation", self.use_activation, f"normalize, which is {self.normalize}")

    @property
    def normalizes(self) -> bool | None:
        return self.normalize if self.use_activation is None else self.use_activation


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(i) is int and i >= 0 for i in value)
