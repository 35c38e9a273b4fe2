"""Refuses a command in one sentence if the extra that it needs is not installed."""

import importlib.util

from heatline.edge.errors import MissingExtraError

TRAINING = "torch", "timm", "lightning", "hydra", "torchmetrics", "jinja2", "matplotlib"
"""Modules of the extra `train` that a training imports."""
EXPORT = "torch", "timm", "onnx", "onnxscript", "nncf"
"""Modules of the extra `export` that an export imports."""


def require_extra(extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed, without importing them.

    Raises:
        MissingExtraError: a module is not installed.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtraError(f"this needs {' and '.join(missing)}, not installed here; {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """Describe how to install an extra. From the folder, as a package index could hold another package of this name.

    >>> how_to_install("export")
    "in heatline's folder, call: pip install -e '.[export]'"
    """
    return f"in heatline's folder, call: pip install -e '.[{extra}]'"
