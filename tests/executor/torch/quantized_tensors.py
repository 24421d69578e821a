"""Random matrices in the formats that are quantized."""

import numpy as np
import torch

from octavo.executor.torch.forms import FORMS, pieces, rearrange
from octavo.executor.torch.quantized import Quantized
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import StoredTensor

FLOATS = {"Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208]}  # where float16 numbers are, if they don't begin a block


def random_stored(format, rows, columns, seed=0):
    """Random blocks of values near one."""
    rng, layout = np.random.default_rng(seed), LAYOUTS[format]
    blocks = rng.integers(0, 256, (layout.nbytes((rows, columns)) // layout.block_bytes, layout.block_bytes), np.uint8)
    form = FORMS[format]
    if form.codes == "e4m3":
        blocks[:, 4:][blocks[:, 4:] & 127 == 127] = 1  # NaN
    if format.startswith("Q"):
        count = 1 + form.has_minima
        places, dtype = FLOATS.get(format, [0, 2][:count]), np.float16
    else:
        places, dtype = [0, 4][: 1 + form.has_minima], np.float32
    if format == "MXFP4":
        places, blocks[:, 0] = [], rng.integers(119, 127, len(blocks))
    for at in places if layout.block > 1 else ():
        size = np.dtype(dtype).itemsize
        numbers = (rng.uniform(-1, 1, len(blocks)) / 16).astype(dtype)
        blocks[:, at : at + size] = numbers.view(np.uint8).reshape(-1, size)
    scales = rng.uniform(0.001, 0.1, rows).astype(np.float32) if layout.scales else None
    blocks.flags.writeable = False  # as those of a file
    return StoredTensor("w", format, (rows, columns), blocks.reshape(-1), scales=scales)


def on_device(stored, device):
    matrix = Quantized.empty(FORMS[stored.format], *stored.shape, device)
    for rows, piece in pieces(stored, 1000):
        arrays = rearrange(piece, matrix.form)
        matrix.rows(rows).copy_({name: torch.from_numpy(array) for name, array in arrays.items()})
    return matrix
