"""`python -m bimt.command`: the same as `bimt`."""

from __future__ import annotations

from .main import run

if __name__ == "__main__":
    run()
