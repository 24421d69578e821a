"""Files that options name: regular ones of a bounded size, so that reading them ends."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from octavo.errors import ConfigError

MAX_BYTES = 4 << 20


def check_file(option: str, file: str) -> Path:
    """The file's path. Raises ConfigError if it is missing, no regular file, or too large."""
    path = Path(file).expanduser()
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise ConfigError(option, file, f"can't be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ConfigError(option, file, f"can't be read: it is {kind}")
    if found.st_size > MAX_BYTES:
        raise ConfigError(option, file, f"has {found.st_size} bytes, and may have {MAX_BYTES}")
    return path


def read_text(option: str, file: str) -> str:
    """Raises ConfigError if it can't be read, or is not UTF-8."""
    try:
        return check_file(option, file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(option, file, f"can't be read: {getattr(error, 'strerror', None) or error}") from None


def read_yaml(option: str, file: str) -> Any:
    """What a file of YAML holds. Raises ConfigError, also for a key that is there twice."""
    import yaml

    text = read_text(option, file)
    try:
        _refuse_duplicates(yaml.compose(text, yaml.SafeLoader))
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(option, file, f"can't be read: {' '.join(str(error).split())[:200]}") from None


def _refuse_duplicates(node: Any) -> None:
    """Raises ValueError if a mapping within `node`, of YAML, has a key twice: the last one would count."""
    if isinstance(node.value if node else None, list):
        pairs = [pair for pair in node.value if isinstance(pair, tuple)]
        keys = [key.value for key, _ in pairs if isinstance(key.value, str)]
        if len(set(keys)) < len(keys):
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise ValueError(f"{twice[:60]} is there twice, at line {node.start_mark.line + 1} and after it")
        for child in [value for _, value in pairs] or node.value:
            _refuse_duplicates(child)
