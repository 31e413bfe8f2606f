"""BIMT: brain-inspired modular training. (arXiv 2305.08746)"""

from bimt_engine import _aliases

_aliases.install()
