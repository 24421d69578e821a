"""Random blocks of stored formats, of which every float is finite: all of them, or near one."""

import numpy as np

from octavo.weights.layout import LAYOUTS

# Where each block has float16 numbers; they are made finite, since a NaN's bits are not part of the contract.
HALVES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "IQ4_NL": [0],
    "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64],
}  # fmt: skip


def random_blocks(format, count, seed=0):
    """Random bytes, shape [count, bytes of a block]."""
    rng = np.random.default_rng(seed)
    size = LAYOUTS[format].block_bytes
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    if "_G" in format:  # a scale in float32, and a minimum
        numbers = rng.standard_normal((count, 2 if format.startswith("U") else 1)).astype(np.float32)
        blocks[:, : 4 * numbers.shape[1]] = numbers.view(np.uint8)
        if format.startswith("E4M3"):
            codes = blocks[:, 4:]
            codes[codes & 127 == 127] ^= 1
    for at in HALVES.get(format, []):
        high = blocks[:, at + 1]
        high[high & 0x7C == 0x7C] &= 0xBF
    if format == "IQ1_M":  # the highest bits of the float16 are the last four
        high = blocks[:, 55]
        high[high & 0x70 == 0x70] &= 0xBF
    if format == "MXFP4":  # 12 times the largest of these powers of two is finite
        blocks[:, 0] = np.minimum(blocks[:, 0], 252)
    if format in ("F32", "BF16"):
        high = blocks[:, size - 1]
        high[high & 0x7F == 0x7F] &= 0xBF
    return blocks


def blocks_near_one(format, count, seed=0):
    """The same with scales, and minima, between 0.5 and 2, some of them negative."""
    rng = np.random.default_rng(seed)
    blocks = random_blocks(format, count, seed)
    numbers = (rng.uniform(0.5, 2, (count, 2)) * rng.choice([-1, 1], (count, 2))).astype(np.float32)
    if "_G" in format:
        floats = numbers if format.startswith("U") else numbers[:, :1].copy()
        blocks[:, : 4 * floats.shape[1]] = floats.view(np.uint8)
    for i, at in enumerate(HALVES.get(format, [])):
        blocks[:, at : at + 2] = numbers[:, i].astype(np.float16).view(np.uint8).reshape(-1, 2)
    if format == "IQ1_M":  # its nibbles are the upper ones of four words
        nibbles = numbers[:, :1].astype(np.float16).view(np.uint16) >> np.arange(0, 16, 4) & 15
        blocks[:, 49::2] = blocks[:, 49::2] & 15 | nibbles.astype(np.uint8) << 4
    if format == "MXFP4":
        blocks[:, 0] = rng.integers(126, 129, count)
    if format == "NVFP4":
        blocks[:, :4] = rng.integers(0x30, 0x48, (count, 4))
    return blocks
