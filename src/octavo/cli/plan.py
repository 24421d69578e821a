"""`octavo plan [MODEL]`: what a model would take and how fast it would be, before anything is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from octavo.cli.models import lines_about
from octavo.cli.options import MODEL_HELP, add_engine_flags, engine_options, report_notes, spell_flags, take_model
from octavo.cli.parser import Parser, UsageError

DOES_NOT_FIT = 2


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    take_model(args, args.given)
    report_notes()
    options = engine_options(args)
    if args.plan_config is not None and "model" in options:
        raise UsageError(f"--config {args.plan_config} describes a model by itself: leave out {options['model']}")
    plan = _planned(options, args)
    from octavo.plan.report import as_json, lines

    if args.json:
        print(json.dumps(as_json(plan), indent=2, ensure_ascii=False))
    else:
        verdict = "fits" if plan.fits else "does not fit"
        about = [f"{plan.about.model} {verdict} on {plan.machine.name}.", *lines_about(plan.about)]
        print("\n".join(spell_flags(line) for line in lines(plan, about)))
    return 0 if plan.fits else DOES_NOT_FIT


def _parser() -> Parser:
    parser = Parser(
        "octavo plan",
        "[flags] [MODEL]",
        "Says, from headers alone, what a model takes of memory with these flags and how fast it would be, in every "
        "format that it can have; what fits on this machine or another; and the command that fits where the asked one "
        "does not. Of a model on the Hub nothing is fetched but headers. Exit code 2 means that it does not fit.",
    )
    parser.add_argument("given", nargs="?", default=None, metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("plan")
    config = "a config.json in place of a model: no weights are needed"
    group.add_argument("--config", dest="plan_config", metavar="FILE", default=None, help=config)
    machine = "another machine, as T4:16GB, H100 or CPU:32GiB"
    group.add_argument("--machine", metavar="NAME", default=None, help=machine)
    memory = "plan for so much memory, as 14.56GiB"
    group.add_argument("--memory", metavar="SIZE", default=None, help=memory)
    anew = "measure this machine's limits anew, which were measured before"
    group.add_argument("--measure", action="store_true", default=False, help=anew)
    group.add_argument("--json", action="store_true", default=False, help="print JSON")
    add_engine_flags(parser)
    return parser


def _planned(options: dict[str, Any], args: Any) -> Any:
    from octavo.config import EngineConfig
    from octavo.devices import place
    from octavo.engine.planning import select_machine
    from octavo.plan.machines import find_machine, this_gpu_or_cpu
    from octavo.plan.report import make_plan
    from octavo.plan.source import opened

    machine = find_machine(args.machine, args.memory)
    config, notes = EngineConfig.resolve(options, place if machine is None else machine.place)
    for note in dict.fromkeys(notes):
        import logging

        logging.getLogger("octavo").warning("%s", note)
    select_machine()
    if args.measure:
        from octavo.plan.limits import forget

        forget()
    if machine is None:
        machine = this_gpu_or_cpu(config.device)
    source = {"revision": config.revision, "cache_dir": config.download_dir}
    with opened(config.model, args.plan_config, **source) as found:
        return make_plan(config, found, machine, options)
