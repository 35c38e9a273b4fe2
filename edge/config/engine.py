"""Which engine infers, as `line.toml` says it or as it was tuned. docs/config.md describes every key."""

from typing import Annotated

import msgspec
from msgspec import Meta

from edge.errors import ConfigError
from edge.inference.engine import PROCESSOR, EngineKind, Precision
from edge.inference.opening import PRECISIONS

Device = Annotated[
    str, Meta(pattern=r"^(CPU|GPU(\.[0-9]{1,2})?|NPU)\Z", description="CPU, GPU, GPU.0, GPU.1 and so on, or NPU")
]
"""As OpenVINO names it. Not AUTO and its like, which change over after the golden tiles as well."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which engine infers, in what, and with what."""

    kind: EngineKind = "openvino"
    device: Device = PROCESSOR
    precision: Precision = "f32"
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    streams: Annotated[int, Meta(ge=0, le=1024)] = 0
    batch: Annotated[int, Meta(ge=0, le=1024)] = 0

    def __str__(self) -> str:
        """For people.

        >>> str(EngineConfig(precision="int8", threads=2))
        'openvino in int8, 2 threads'
        >>> str(EngineConfig(device="GPU", streams=2, batch=4))
        'openvino on GPU in f32, 2 streams, batches of 4'
        """
        set_to = {"threads": self.threads, "streams": self.streams}
        words = [f"{count} {name if count > 1 else name[:-1]}" for name, count in set_to.items() if count]
        words += [f"batches of {self.batch}"] if self.batch else []
        on = "" if self.device == PROCESSOR else f" on {self.device}"
        return ", ".join([f"{self.kind}{on} in {self.precision}", *words])


def check_engine(engine: EngineConfig) -> None:
    """See that its kind can compute so, on whatever machine.

    Raises:
        ConfigError: it cannot.
    """
    can = PRECISIONS[engine.kind]
    if engine.precision not in can:
        raise ConfigError(
            f"engine.precision is {engine.precision!r}, {engine.kind} computes in {' or '.join(can)} alone; "
            'set engine.kind = "openvino", or another engine.precision'
        )
    if engine.kind != "openvino" and engine.device != PROCESSOR:
        raise ConfigError(
            f"engine.device is {engine.device!r}, {engine.kind} computes on {PROCESSOR} alone; "
            f'set engine.kind = "openvino", or engine.device = "{PROCESSOR}"'
        )
