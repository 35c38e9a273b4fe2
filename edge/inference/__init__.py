"""Engines: tiles in, logits and maps out, asynchronously."""

from heatline.edge.inference.engine import Engine, EngineKind, Precision, infer, open_engine

__all__ = ["Engine", "EngineKind", "Precision", "infer", "open_engine"]
