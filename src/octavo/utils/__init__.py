"""What scripts written for vLLM import from its `utils`."""

import uuid

from octavo.utils.argparse_utils import FlexibleArgumentParser

__all__ = ["FlexibleArgumentParser", "random_uuid"]


def random_uuid() -> str:
    """32 random hexadecimal digits."""
    return uuid.uuid4().hex
