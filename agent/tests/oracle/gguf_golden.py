"""Records GGUF blocks and their numbers: the goldens of agent/src/model/gguf/blocks.rs.

    pip install gguf==0.19.0 numpy==2.4.6
    python agent/tests/oracle/gguf_golden.py > agent/tests/golden/gguf_blocks.json

Each block is random bytes with scales that are finite half-precision numbers of either sign; among them a scale of 0,
the largest and the smallest. `values` are the bits of `gguf.quants.dequantize`, little endian, as hex.
"""

import json

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Type, blocks, first bytes of the half-precision scales in a block.
RECORDED = [
    ("F32", 8, []), ("F16", 12, [0]), ("BF16", 12, []),
    ("Q8_0", 6, [0]), ("Q4_0", 6, [0]), ("Q4_1", 6, [0, 2]), ("Q5_0", 6, [0]), ("Q5_1", 6, [0, 2]),
    ("Q4_K", 6, [0, 2]), ("Q5_K", 6, [0, 2]), ("Q6_K", 6, [208]),
    ("Q2_K", 6, [80, 82]), ("Q3_K", 6, [108]), ("IQ4_NL", 6, [0]), ("IQ4_XS", 6, [0]),
]
# 0, the largest, the smallest below normal, -1.5, then random ones.
SCALES = [0x0000, 0x7BFF, 0x0001, 0xBE00]


def blocks_of(kind, count, scales, random):
    """Random blocks of a type, with scales that are numbers."""
    _, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for row, block in enumerate(blocks):
        for place in scales:
            scale = SCALES[row] if row < len(SCALES) else random.integers(0x2000, 0x3800) | random.integers(0, 2) << 15
            block[place:place + 2] = np.frombuffer(np.uint16(scale).tobytes(), np.uint8)
    if kind == "F32":
        blocks[:, 3] &= 0xBF  # an exponent below 128 is a number
    if kind == "BF16":
        blocks[:, 1] &= 0xBF
    return blocks


def main():
    random = np.random.default_rng(20)
    recorded = {}
    for kind, count, scales in RECORDED:
        blocks = blocks_of(kind, count, scales, random)
        values = np.ascontiguousarray(dequantize(blocks.reshape(-1), GGMLQuantizationType[kind]), dtype="<f4")
        assert np.isfinite(values).all(), kind
        recorded[kind] = {"blocks": blocks.tobytes().hex(), "values": values.tobytes().hex()}
    print(json.dumps(recorded, indent=1))


main()
