"""`octavo serve [MODEL …]`: the OpenAI-compatible server."""

from __future__ import annotations

import argparse
import gc
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from octavo.cli.flag import Flag, as_flag, names
from octavo.cli.options import (
    ENGINE_FLAGS,
    MODEL_FLAGS,
    MODEL_HELP,
    add_engine_flags,
    add_flags,
    add_hidden_flags,
    engine_options,
    options_of,
    take_model,
)
from octavo.cli.parser import MAY_BE_EMPTY, Parser, UsageError, read_value
from octavo.cli.server_flags import SERVER_FLAGS, SERVER_NOTED, SERVER_REFUSED, SPELLINGS
from octavo.config import EngineConfig
from octavo.environment import read_server_environment
from octavo.errors import ConfigError, UnsupportedError, did_you_mean
from octavo.option_files import read_yaml
from octavo.options import NOTED, REFUSED, wanted
from octavo.server.options import LONGEST, ModelSpec, ServerConfig

DESCRIPTION = (
    "Serves models with OpenAI's HTTP API. The port answers at once; requests are taken when the models are loaded, "
    "and /readyz says how far that is. Requests say in `model` which one they mean."
)
Options = dict[str, Any]
NAMES = ("served_model_name", "alias", "tags")  # the options that name one model
TABLES = {flag.name: flag for flag in (*SERVER_FLAGS, *MODEL_FLAGS, *ENGINE_FLAGS)}
logger = logging.getLogger("octavo")


def main(argv: Sequence[str], prog: str = "octavo serve") -> int:
    args = _parser(prog).parse(argv)
    config, specs, common = read_all(args)
    for spec in specs:
        EngineConfig.resolve(spec.options)

    gc.disable()  # until the server is ready: what is imported and loaded stays, and to look through it takes long
    from octavo.server.listener import address, bind
    from octavo.server.logs import set_up

    listener = bind(config)  # before anything slow is imported: from here on clients can connect
    set_up(config.log_level, config.log_format)
    logger.info("listening on %s", address(config, listener))
    for name, _, note in wanted(vars(args), SERVER_NOTED):
        logger.warning("%s: %s", as_flag(name), note)
    from octavo.server.models import ModelRegistry
    from octavo.server.state import ServerState

    state = ServerState(config, ModelRegistry(specs, config, common))
    from octavo.server.loading import start_loading

    loaded = start_loading(state.models)  # from here on nothing is wrong with what was typed
    from octavo.server.lifecycle import serve

    return serve(state, listener, loaded)


def _parser(prog: str) -> Parser:
    parser = Parser(prog, "[flags] [MODEL …]", DESCRIPTION)
    parser.add_argument("given", nargs="*", default=[], metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("serving")
    file = "a YAML file of flags; `models` in it has options for each model"
    group.add_argument("--config", metavar="FILE", help=file)
    named = "the names of the model in requests; the first is its id"
    group.add_argument("--served-model-name", nargs="+", metavar="NAME", help=named)
    group.add_argument("--alias", type=names, metavar="LIST", help="further names of the model in requests")
    words = "words that the list of models shows beside the model"
    group.add_argument("--tags", type=names, metavar="LIST", help=words)
    add_flags(parser, "server", SERVER_FLAGS)
    for name, (ours, is_opposite) in SPELLINGS.items():
        convert = TABLES[ours].convert
        how: Any = {"type": convert} if convert else {"action": "store_const", "const": not is_opposite}
        parser.add_argument(as_flag(name), dest=ours, help=argparse.SUPPRESS, **how)
    add_engine_flags(parser)  # skips those that the server has itself
    add_hidden_flags(parser, {**SERVER_REFUSED, **SERVER_NOTED})
    return parser


def read_arguments(args: argparse.Namespace) -> tuple[ServerConfig, list[ModelSpec]]:
    """The server and its models. Raises UsageError, ConfigError or UnsupportedError."""
    return read_all(args)[:2]


def read_all(args: argparse.Namespace) -> tuple[ServerConfig, list[ModelSpec], Options]:
    """The server, its models, and the options of models that are found later.

    They come from what was typed, then --config, then the environment. Raises UsageError, ConfigError or
    UnsupportedError.
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
    for name, value, reason in wanted(vars(args), SERVER_REFUSED):
        raise UnsupportedError(name, value, reason)
    common = engine_options(args, {"model", "served_model_name", *(flag.name for flag in SERVER_FLAGS)})
    if entries:
        if given:
            raise UsageError("models were given on the command line and in --config")
        specs = [_spec_of(entry, common, args.config) for entry in entries]
    else:
        chosen = [tuple(getattr(args, name, ())) for name in NAMES]
        for name, value in zip(NAMES, chosen, strict=True):
            if value and len(given) > 1:
                raise UsageError(f"{as_flag(name)} names one model; name several in --config FILE, under models")
        known, aliases, tags = chosen
        specs = [
            ModelSpec(options={**common, "model": model}, names=known, aliases=aliases, tags=tags)
            for model in given or ([] if hasattr(args, "models_dir") else [None])
        ]
    return _server_config(args), specs, common


def _server_config(args: argparse.Namespace) -> ServerConfig:
    options = {**read_server_environment(), **options_of(args, SERVER_FLAGS)}
    of_environment = (os.environ.get("OCTAVO_API_KEY"), os.environ.get("VLLM_API_KEY"))  # an empty variable is no key
    keys = (*options.pop("api_key", ()), *filter(None, of_environment))
    pinned = tuple(options.pop("pin", ()))
    return ServerConfig(**options, pin=pinned, api_keys=keys)


def _read_file(args: argparse.Namespace, file: str) -> list[Any]:
    """Puts a file's options where nothing was typed, and returns its `models`."""
    options = read_yaml("config", file)
    if not isinstance(options, dict):
        raise ConfigError("config", file, "must have lines of the form option: value")
    entries = options.pop("models", []) if options.get("models", True) else None
    if not isinstance(entries, list):
        raise ConfigError("config", file, "models must be a list of at least one model")
    others = {*NAMES, *SPELLINGS, *SERVER_REFUSED, *SERVER_NOTED, *REFUSED, *NOTED}
    for key, value in options.items():
        said = str(key).replace("-", "_")
        name, is_opposite = SPELLINGS.get(said, (said, False))
        if name not in TABLES and name not in others:
            near = did_you_mean(name, {*TABLES, *others, "models"})
            raise ConfigError("config", file, f"there is no option {str(key)[:60]!r}{near}")
        if name in TABLES:
            value = _converted(TABLES[name], said, value, file)
        elif name in NAMES:
            value = _names(value, name, file)
        if not hasattr(args, name):
            setattr(args, name, not value if is_opposite else value)
    return entries


def _converted(flag: Flag, said: str, value: Any, file: str) -> Any:
    """A value of the file as the command line would read it; `said` is the name that it has there."""
    if flag.convert is None:
        if not isinstance(value, bool):
            raise ConfigError("config", file, f"{said} must be true or false")
        return value
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and not flag.repeat:
        return tuple(value)
    if value in ("", [""]) and flag.name not in MAY_BE_EMPTY:
        raise ConfigError("config", file, f"{said} must not be empty")
    try:
        values = [read_value(flag.convert, str(item)) for item in (value if isinstance(value, list) else [value])]
    except argparse.ArgumentTypeError as error:
        raise ConfigError("config", file, f"{said}: {error}") from None
    return values if flag.repeat else values[0]


def _spec_of(entry: Any, common: Mapping[str, Any], file: str) -> ModelSpec:
    """One of the file's `models`: a reference, or its options with names and aliases."""
    if isinstance(entry, str):
        return ModelSpec(options={**common, "model": entry})
    if not isinstance(entry, dict):
        raise ConfigError("config", file, "an entry of models must be a model or a list of options")
    options = {str(key).replace("-", "_"): value for key, value in entry.items()}
    known, aliases, tags = (_names(options.pop(key, []), key, file) for key in ("served_model_name", "aliases", "tags"))
    more = _stay_of(options, file)
    return ModelSpec(options={**common, **options}, names=known, aliases=aliases, tags=tags, **more)


def _stay_of(options: Options, file: str) -> Options:
    """When a model of the file is loaded and unloaded, which is taken out of its options. Raises ConfigError."""
    load, pin, ttl = options.pop("load", "at-start"), options.pop("pin", False), options.pop("ttl", None)
    if load not in ("at-start", "on-demand"):
        raise ConfigError("config", file, f"load must be at-start or on-demand, got {str(load)[:40]!r}")
    if not isinstance(pin, bool):
        raise ConfigError("config", file, "pin must be true or false")
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= LONGEST):
        raise ConfigError("config", file, f"ttl must be a number of seconds above 0, got {str(ttl)[:40]!r}")
    return {"on_demand": load == "on-demand", "pin": pin, "ttl": ttl}


def _names(value: Any, key: str, file: str) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(name, str) and name for name in given):
        raise ConfigError("config", file, f"{key} must be a name or a list of names")
    return tuple(given)


assert {flag.name for flag in SERVER_FLAGS} - {"api_key"} <= {field.name for field in fields(ServerConfig)}
