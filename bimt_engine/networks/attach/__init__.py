"""A wiring for any torch module: derived from its exported graph, proven, and never guessed."""

from bimt_engine.networks.attach.attached import Attached, Pinned, attach
from bimt_engine.networks.attach.walk import AttachError

__all__ = ["AttachError", "Attached", "Pinned", "attach"]
