"""The engine's settings, in `line.toml`. docs/config.md describes every key."""

from typing import Annotated

import msgspec
from msgspec import Meta

from heatline.edge.errors import ConfigError, EngineError
from heatline.edge.inference import EngineKind, Precision, require_supported
from heatline.edge.inference.engine import PROCESSOR

Device = Annotated[
    str, Meta(pattern=r"^(CPU|GPU(\.[0-9]{1,2})?|NPU)\Z", description="CPU, GPU, GPU.0, GPU.1 and so on, or NPU")
]
"""A device by OpenVINO's name. AUTO and the like are refused: they may change the device after the golden tiles ran."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engine that infers: its kind, device, precision and resources."""

    kind: EngineKind = "openvino"
    """The engine that runs the graph. Both give the same verdicts in f32."""
    device: Device = PROCESSOR
    """The device that OpenVINO computes on. ONNX Runtime computes only on the processor."""
    precision: Precision = "f32"
    """The precision that the graph is computed in."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Processor threads. 0: one per core that this process may use."""
    streams: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Requests that OpenVINO processes at the same time. 0: one per thread. ONNX Runtime processes one at a time and
    ignores this."""
    batch: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Tiles per request. 0: 1 with OpenVINO, 8 with ONNX Runtime. A verdict does not depend on it."""
    screening: bool = True
    """Whether the bundle's screening stage, if it has one, clears tiles (docs/screening.md says when
    it does not)."""

    def __str__(self) -> str:
        """Describe the settings.

        >>> str(EngineConfig(precision="int8", threads=2))
        'openvino in int8, 2 threads'
        >>> str(EngineConfig(device="GPU", streams=2, batch=4))
        'openvino on GPU in f32, 2 streams, batches of 4'
        """
        counts = {"threads": self.threads, "streams": self.streams}
        parts = [f"{count} {name if count > 1 else name[:-1]}" for name, count in counts.items() if count]
        parts += [f"batches of {self.batch}"] if self.batch else []
        on = "" if self.device == PROCESSOR else f" on {self.device}"
        return ", ".join([f"{self.kind}{on} in {self.precision}", *parts])


def check_engine(engine: EngineConfig) -> None:
    """Raise a ConfigError if the engine's kind supports its precision or its device on no machine."""
    try:
        require_supported(engine.kind, engine.precision, engine.device)
    except EngineError as error:
        raise ConfigError(f"engine: {error}") from error
