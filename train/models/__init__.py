"""Classifiers with explanation maps, and their pretrained weights. Importing the package imports torch and timm."""

import sys

if "wandb" not in sys.modules:
    # timm imports wandb for scripts of its own, which takes a second and leaves temporary folders if the process ends
    # at once. `heatline.train.whole_network` imports wandb for runs that log to it.
    sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        import timm  # noqa: F401
    finally:
        del sys.modules["wandb"]
