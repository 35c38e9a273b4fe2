"""Engines: tiles in, logits and maps out, asynchronously."""

from edge.inference.engine import Engine, EngineKind, Precision, infer
from edge.inference.opening import open_engine

__all__ = ["Engine", "EngineKind", "Precision", "infer", "open_engine"]
