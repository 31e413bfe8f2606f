"""How often one may ask: limits per token, counted in the shared broker so that all processes count together."""

from __future__ import annotations

from flask import Flask

from store.settings import Settings


def install(app: Flask, settings: Settings) -> None:
    """Install the limits of the settings."""
