"""`octavo serve [MODEL …]`: the OpenAI-compatible server."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from octavo.cli.flag import Flag, as_flag, literal
from octavo.cli.options import (
    ENGINE_FLAGS,
    MODEL_FLAGS,
    MODEL_HELP,
    add_engine_flags,
    add_flags,
    engine_options,
    options_of,
    take_model,
)
from octavo.cli.parser import Parser, UsageError
from octavo.cli.server_flags import SERVER_FLAGS, SERVER_NOTED, SERVER_REFUSED, SPELLINGS
from octavo.config import NOTED, REFUSED, EngineConfig
from octavo.errors import ConfigError, UnsupportedError
from octavo.server.options import ModelSpec, ServerConfig

DESCRIPTION = (
    "Serves models with OpenAI's HTTP API. The port answers at once; requests are taken when the models are loaded, "
    "and /readyz says how far that is. Requests say in `model` which one they mean."
)
Options = dict[str, Any]
logger = logging.getLogger("octavo")


def main(argv: Sequence[str], prog: str = "octavo serve") -> int:
    args = _parser(prog).parse(argv)
    config, specs = read_arguments(args)
    for spec in specs:
        EngineConfig.check(spec.options)

    from octavo.server.listener import address, bind
    from octavo.server.logs import set_up

    listener = bind(config)  # before anything slow is imported: from here on clients can connect
    set_up(config.log_level, config.log_format)
    logger.info("listening on %s", address(config, listener))
    from octavo.server.models import ModelRegistry

    models = ModelRegistry(specs, config)
    from octavo.server.loading import start_loading

    loaded = start_loading(models)
    from octavo.server.lifecycle import serve

    return serve(config, models, listener, loaded)


def _parser(prog: str) -> Parser:
    parser = Parser(prog, "[flags] [MODEL …]", DESCRIPTION)
    parser.add_argument("given", nargs="*", default=[], metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("serving")
    group.add_argument("--config", metavar="FILE", help="flags in YAML; `models` there has options for each model")
    named = "what requests call the model; the first name is its id"
    group.add_argument("--served-model-name", nargs="+", metavar="NAME", help=named)
    add_flags(parser, "server", SERVER_FLAGS)
    add_engine_flags(parser)
    toggle = argparse.BooleanOptionalAction
    for name, (neutral, _) in {**SERVER_REFUSED, **SERVER_NOTED}.items():
        if any(isinstance(value, bool) for value in neutral):
            parser.add_argument(as_flag(name), action=toggle, help=argparse.SUPPRESS)
        else:
            parser.add_argument(as_flag(name), type=literal, help=argparse.SUPPRESS)
    for name, (ours, _) in SPELLINGS.items():
        if name in NOTED:  # the engine's table has it already
            continue
        if _flag(ours).convert is None:
            parser.add_argument(as_flag(name), action="store_true", help=argparse.SUPPRESS)
        else:
            parser.add_argument(as_flag(name), type=str, help=argparse.SUPPRESS)
    return parser


def read_arguments(args: argparse.Namespace) -> tuple[ServerConfig, list[ModelSpec]]:
    """The server and its models, from what was typed, then --config, then the environment.

    Raises UsageError, ConfigError or UnsupportedError.
    """
    entries: list[Any] = []
    if hasattr(args, "config"):
        entries = _read_file(args, args.config)
    given = list(args.given)
    if len(given) < 2:
        take_model(args, given[0] if given else None)
        given = [args.model] if hasattr(args, "model") else []
    elif hasattr(args, "model"):
        raise UsageError(f"models were given as arguments and with --model {args.model}")
    _check_known(args)
    common = {name: value for name, value in engine_options(args).items() if name not in ("model", *SPELLINGS)}
    if entries:
        if given:
            raise UsageError("models were given on the command line and in --config")
        specs = [_spec_of(entry, common, args.config) for entry in entries]
    else:
        chosen = tuple(getattr(args, "served_model_name", ()))
        if chosen and len(given) > 1:
            raise UsageError("--served-model-name names one model; name several in --config FILE, under models")
        specs = [ModelSpec(options={**common, "model": model}, names=chosen) for model in given or [None]]
    return _server_config(args), specs


def _server_config(args: argparse.Namespace) -> ServerConfig:
    options = options_of(args, SERVER_FLAGS)
    for name, (ours, is_opposite) in SPELLINGS.items():
        if hasattr(args, name):
            value = getattr(args, name)
            options[ours] = (not value) if is_opposite else value
    keys = [*options.pop("api_key", ()), os.environ.get("OCTAVO_API_KEY"), os.environ.get("VLLM_API_KEY")]
    return ServerConfig(**options, api_keys=tuple(key for key in keys if key))


def _check_known(args: argparse.Namespace) -> None:
    """Refuses and notes flags of vLLM's server. Raises UnsupportedError."""
    for name, (neutral, reason) in SERVER_REFUSED.items():
        if getattr(args, name, None) not in neutral:
            raise UnsupportedError(name, getattr(args, name), reason)
    for name, (neutral, note) in SERVER_NOTED.items():
        if getattr(args, name, None) not in neutral:
            logger.warning("%s: %s", as_flag(name), note)


def _read_file(args: argparse.Namespace, file: str) -> list[Any]:
    """Puts a file's options where nothing was typed, and returns its `models`."""
    import yaml

    try:
        options = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("config", file, f"can't be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(options, dict):
        raise ConfigError("config", file, "must have lines of the form option: value")
    entries = options.pop("models", [])
    if not isinstance(entries, list):
        raise ConfigError("config", file, "models must be a list")
    tables = {flag.name: flag for flag in (*SERVER_FLAGS, *MODEL_FLAGS, *ENGINE_FLAGS)}
    others = {"served_model_name", *SPELLINGS, *SERVER_REFUSED, *SERVER_NOTED, *REFUSED, *NOTED}
    for key, value in options.items():
        name = str(key).replace("-", "_")
        if name not in tables and name not in others:
            raise ConfigError("config", file, _unknown(str(key), {*tables, *others, "models"}))
        if name == "served_model_name" and isinstance(value, str):
            value = [value]
        if not hasattr(args, name):
            setattr(args, name, _converted(tables[name], value, file) if name in tables else value)
    return entries


def _converted(flag: Flag, value: Any, file: str) -> Any:
    """A value of the file as the command line would read it."""
    if flag.convert is None:
        if not isinstance(value, bool):
            raise ConfigError("config", file, f"{flag.name} must be true or false")
        return value
    if isinstance(value, list) and not flag.repeat:
        return tuple(value)
    try:
        values = [flag.convert(str(item)) for item in (value if isinstance(value, list) else [value])]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ConfigError("config", file, f"{flag.name}: {error}") from None
    return values if flag.repeat else values[0]


def _spec_of(entry: Any, common: Mapping[str, Any], file: str) -> ModelSpec:
    """One of the file's `models`: a reference, or its options with names and aliases."""
    if isinstance(entry, str):
        return ModelSpec(options={**common, "model": entry})
    if not isinstance(entry, dict):
        raise ConfigError("config", file, "an entry of models must be a model or a list of options")
    options = {str(key).replace("-", "_"): value for key, value in entry.items()}
    names, aliases = (_names(options.pop(key, []), key, file) for key in ("served_model_name", "aliases"))
    return ModelSpec(options={**common, **options}, names=names, aliases=aliases)


def _names(value: Any, key: str, file: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError("config", file, f"{key} must be a name or a list of names")
    return tuple(names)


def _unknown(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    return f"there is no option {name[:60]!r}{f'; did you mean {near[0]}?' if near else ''}"


def _flag(name: str) -> Flag:
    return next(flag for flag in SERVER_FLAGS if flag.name == name)


assert {flag.name for flag in SERVER_FLAGS} - {"api_key"} <= {field.name for field in fields(ServerConfig)}
