"""`FlexibleArgumentParser`: argparse, with flags of either spelling."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from octavo.cli.parser import with_dashes


class FlexibleArgumentParser(argparse.ArgumentParser):
    """Takes --max_model_len for --max-model-len, as vLLM's does."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([with_dashes(arg) for arg in given], namespace)
