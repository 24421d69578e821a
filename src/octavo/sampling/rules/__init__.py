"""What shapes a row of logits before a token is drawn.

Every module here has rules, a new file needs no mention; those of other packages are known once they are imported.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Sequence
from importlib import import_module

from octavo.sampling.rules.base import Logits, Rule
from octavo.sampling_params import SamplingParams

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)


def known_rules() -> list[type[Rule]]:
    """All kinds of rules, in the order of their stages."""
    return sorted(Rule.__subclasses__(), key=lambda rule: rule.stage)


def apply_rules(rules: Iterable[Rule], logits: Logits, output: Sequence[int]) -> None:
    """Applies `rules`, which are in order, to float32 [vocabulary] in place, after the tokens `output`."""
    for rule in rules:
        if rule.applies(len(output)):
            rule.apply(logits, output)


def banning(params: SamplingParams) -> list[str]:
    """The names of the parameters by which a request bans tokens."""
    active = [rule.banning for rule in known_rules() if rule.banning and getattr(params, rule.banning[0])]
    return [name for names in active for name in names if getattr(params, name)]
