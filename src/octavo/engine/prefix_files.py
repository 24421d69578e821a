"""The store of a model's prefix cache on disk: which folder, and what names the model in its keys."""

from __future__ import annotations

import logging

from octavo.engine.planning import PlannedModel
from octavo.errors import ConfigError
from octavo.prefix_store.folder import Folder
from octavo.prefix_store.identity import identity
from octavo.prefix_store.store import PrefixStore

logger = logging.getLogger("octavo")
# Options that may change what is computed for a token; how many are computed at once may not.
COUNTED = ("dtype", "kv_cache_dtype", "quantization", "block_size", "device", "executor", "model_impl", "hf_overrides")


def open_store(planned: PlannedModel) -> PrefixStore | None:
    """The store that was asked for, of a model that has something to keep. Raises ConfigError.

    The contents of the model's files are a part of its identity, so all of them are read, once.
    """
    config = planned.config
    if config.prefix_cache_dir is None or not (planned.plan.num_snapshots or not planned.plan.state_bytes):
        logger.warning("prefix_cache_dir: the model %s keeps no prefixes, so nothing is kept on disk", config.model)
        return None
    folder = Folder(config.prefix_cache_dir, config.prefix_cache_bytes)
    size = sum(planned.plan.kv_bytes_per_block)
    if size + (1 << 12) > folder.limit:
        reason = f"a block of {planned.plan.block_size} tokens takes {size} bytes; give that many times more"
        raise ConfigError("prefix_cache_size", config.prefix_cache_size, reason)
    options = {name: getattr(config, name) for name in COUNTED}
    options |= {"config": planned.checkpoint.config, "windows": planned.plan.windows}
    files = planned.checkpoint.files | {tensor.file for tensor in planned.checkpoint.tensors.values()}
    parts = [planned.graph] if planned.encoder is None else [planned.graph, planned.encoder]
    return PrefixStore(folder, identity(parts, files, options, folder.notes))
