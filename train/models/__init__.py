"""Classifiers that explain themselves, and the weights they start from. Importing it imports torch and timm."""

import sys

if "wandb" not in sys.modules:
    # timm imports wandb for its own scripts, if it is installed. That takes a second, and leaves folders among the
    # temporary files where a command ends at once. `train.loggers` imports it for the runs that log to it.
    sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        import timm  # noqa: F401
    finally:
        del sys.modules["wandb"]
