"""Refuses a command in one sentence if the extra that it needs is not installed."""

import importlib.util

from heatline.edge.errors import MissingExtraError

MODULES = {
    "train": ("torch", "timm", "lightning", "torchmetrics", "jinja2", "matplotlib", "optuna", "yaml"),
    "export": ("onnx", "onnxscript", "nncf"),
    "bench": ("jinja2", "matplotlib"),
    "peers": ("pytorch_grad_cam",),
    "view": ("starlette", "uvicorn", "websockets", "prometheus_client", "jinja2"),
    "mqtt": ("paho",),
    "opcua": ("asyncua",),
    "rtsp": ("av",),
    "cluster": ("ray", "pyarrow"),
}
"""The modules of each extra that heatline imports."""
INCLUDED = {"export": ("train",), "peers": ("train", "export")}
"""The extras that an extra installs too."""


def require_extra(extra: str) -> None:
    """Raise a MissingExtraError if a module of an extra is not installed; import none."""
    needed = [module for each in (*INCLUDED.get(extra, ()), extra) for module in MODULES[each]]
    if any(importlib.util.find_spec(module) is None for module in needed):
        raise missing_extra(extra)


def missing_extra(extra: str, what: str = "this command") -> MissingExtraError:
    """Return the error that says what needs an extra, and how to install it."""
    return MissingExtraError(f"{what} needs the extra {extra}: pip install 'heatline[{extra}]'")


def extra_of(error: ModuleNotFoundError) -> MissingExtraError:
    """Return the error that names the extra of a module; raise `error` if no extra has it, as it is then a bug."""
    module = str(error.name).partition(".")[0]
    for extra, modules in MODULES.items():
        if module in modules:
            return missing_extra(extra)
    raise error
