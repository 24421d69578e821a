"""What a constraint does beside masks: tokens without a choice, and the end of what is complete."""

from __future__ import annotations

from octavo.engine.completion import Completion
from octavo.errors import NoTokenError, NumericalError
from octavo.executor.base import ALL_BANNED
from octavo.request import Sequence
from octavo.sampling.rules import banning
from octavo.sampling_params import SamplingParams
from octavo.structured.compiler import CompiledGrammar
from octavo.structured.constraint import Constraint


def make_constraint(
    grammar: CompiledGrammar, params: SamplingParams, eos_token_ids: tuple[int, ...], *, forces: bool
) -> Constraint:
    """That of one sequence. `forces` says whether a token that must come is the only one that a mask has."""
    end = eos_token_ids[0] if eos_token_ids else None
    return grammar.constraint(forces=forces, end=end, avoided_ends=eos_token_ids if params.ignore_eos else ())


def takes_forced(params: SamplingParams) -> bool:
    """Whether tokens without a choice are taken without being drawn: nobody asks how likely they were."""
    return params.logprobs is None and params.num_sequences == params.n


def may_ban(params: SamplingParams) -> bool:
    """Whether the request bans tokens, or makes some unlikely, other than those that end a text.

    Then no token is forced: what is banned may be spelled in other tokens.
    """
    return bool(
        params.bad_words
        or params.allowed_token_ids
        or params.logit_bias
        or params.extra_args
        or params.logits_processors
    )


def go_on(
    sequence: Sequence, constraint: Constraint, completion: Completion, end: int | None, takes_forced: bool
) -> int:
    """Appends tokens that the constraint leaves no choice of, as if each had been drawn, and ends what is complete.

    `end` is the token that ends a text; with `takes_forced` false all that is drawn. Returns how many were appended.
    """
    before = len(sequence.tokens)
    while takes_forced and completion.finish_reason is None and (forced := constraint.forced()):
        for token in forced:
            constraint.accept(token)
            sequence.append(token)
            completion.append(token)
            if completion.finish_reason is not None:
                break
    if constraint.is_complete and completion.finish_reason is None:
        if end is None or not completion.ends_with(end):
            completion.stop("stop")
        elif takes_forced:
            sequence.append(end)
            completion.append(end)
    return len(sequence.tokens) - before


def end_without_token(sequence: Sequence, completion: Completion, drawn: int, params: SamplingParams) -> None:
    """Ends a text that is complete, but whose end is banned. Raises why no token was drawn, if it isn't that."""
    constraint = sequence.constraint
    for rule in sequence.options.rules if sequence.options is not None else ():
        if rule.failure is not None:
            raise rule.failure
    if drawn != ALL_BANNED:
        raise NumericalError
    if constraint is not None and constraint.error is not None:
        raise constraint.error
    if constraint is not None and constraint.is_complete:
        completion.stop("stop")
        return
    names = banning(params) + ["structured_outputs"] * (constraint is not None)
    raise NoTokenError(names) if names else NumericalError
