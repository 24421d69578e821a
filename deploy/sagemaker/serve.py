#!/usr/bin/env python3
"""Starts `octavo serve` as SageMaker starts containers: with the word `serve`, a port, and a model in /opt/ml/model.

SM_OCTAVO_NAME=VALUE in the environment (or SM_VLLM_NAME, as vLLM's containers have it) is the flag --name VALUE;
true is a flag without a value, and false leaves it out. SM_OCTAVO_MODEL names another model than /opt/ml/model.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

PREFIXES = ("SM_VLLM_", "SM_OCTAVO_")  # of the same flag, the later wins
MODEL = "/opt/ml/model"


def command(environment: Mapping[str, str]) -> list[str]:
    flags = {
        name.removeprefix(prefix).lower().replace("_", "-"): value
        for prefix in PREFIXES
        for name, value in sorted(environment.items())
        if name.startswith(prefix)
    }
    given = {"host": "0.0.0.0", "port": environment.get("SAGEMAKER_BIND_TO_PORT", "8080"), **flags}
    made = [sys.executable, "-m", "octavo", "serve", given.pop("model", MODEL)]
    for name, value in given.items():
        if value.lower() != "false":
            made += [f"--{name}"] if value.lower() == "true" else [f"--{name}", value]
    return made


if __name__ == "__main__":
    arguments = command(os.environ)
    os.execv(arguments[0], arguments)
