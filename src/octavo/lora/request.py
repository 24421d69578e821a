"""`LoRARequest`: it can be made, so that scripts get as far as to hear that there are no adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from octavo.errors import UnsupportedError
from octavo.options import LORA


@dataclass(slots=True)
class LoRARequest:
    """An adapter for a request. Every use of one is refused with UnsupportedError: there are no adapters yet."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""


def refuse_lora(lora_request: Any) -> None:
    """Raises UnsupportedError if there is one."""
    if lora_request not in (None, [], ()):
        raise UnsupportedError("lora_request", lora_request, LORA)
