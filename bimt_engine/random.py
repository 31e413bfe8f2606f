"""Random numbers that depend on a seed and a purpose and on nothing else.

Two draws for two purposes never share a stream, so a draw that is added in one place changes none elsewhere.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_for(seed: int, purpose: str) -> int:
    """A 63-bit seed made of the seed and the purpose."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for this purpose; draws are made on the CPU and moved, so that devices agree."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))


def numpy_generator(seed: int, purpose: str) -> np.random.Generator:
    """A numpy generator for this purpose."""
    return np.random.default_rng(seed_for(seed, purpose))
