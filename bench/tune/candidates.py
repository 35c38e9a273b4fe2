"""Settings of an engine to try on a machine."""

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from heatline.edge.config.engine import EngineConfig
from heatline.edge.inference import Precision
from heatline.edge.inference.engine import PROCESSOR
from heatline.edge.inference.opening import PRECISIONS

BATCHES = (1, 2, 4, 8)
BATCHES_ELSEWHERE = (1, 4, 8, 16)
"""On other devices than the processor."""
BATCHES_OF_ONE_REQUEST = (1, 8)
"""With ONNX Runtime, which infers one request at a time."""

NUMBERS = ("threads", "streams", "batch")
"""Keys of an engine whose values are numbers."""


def spelled_out(engine: EngineConfig, cores: int) -> EngineConfig:
    """Replace every 0, which leaves a number to the engine, by the number itself.

    >>> str(spelled_out(EngineConfig(), 4))
    'openvino in f32, 4 threads, 4 streams, batches of 1'
    """
    if engine.kind == "onnxruntime":
        return replace(engine, threads=engine.threads or cores, streams=0, batch=engine.batch or 8)
    if engine.device != PROCESSOR:
        return replace(engine, threads=0, batch=engine.batch or 1)
    threads = engine.threads or cores
    return replace(engine, threads=threads, streams=engine.streams or threads, batch=engine.batch or 1)


def candidates(
    fixed: EngineConfig,
    own: Collection[str],
    *,
    cores: int,
    precisions: Sequence[Precision],
    devices: Sequence[str],
    most_tiles: int,
) -> list[EngineConfig]:
    """Return all settings to try.

    Args:
        fixed: has the values of keys that must not change.
        own: these keys.
        cores: number of cores that may be used.
        most_tiles: tiles of a frame; a larger batch would never be full.
    """
    tried = [
        EngineConfig(precision=precision, threads=threads, streams=streams, batch=batch)
        for precision in precisions
        for threads in _threads(cores)
        for streams in _streams(threads)
        for batch in BATCHES
    ]
    tried += [
        EngineConfig(device=device, precision=precision, batch=batch)
        for device in devices
        if device != PROCESSOR
        for precision in precisions
        for batch in BATCHES_ELSEWHERE
    ]
    tried += [
        EngineConfig(kind="onnxruntime", precision=precision, threads=cores, batch=batch)
        for precision in precisions
        if precision in PRECISIONS["onnxruntime"]
        for batch in BATCHES_OF_ONE_REQUEST
    ]
    numbers = {key: getattr(fixed, key) for key in own if key in NUMBERS}
    found = (
        spelled_out(replace(each, **numbers), cores)
        for each in tried
        if each.batch <= most_tiles
        and all(getattr(each, key) == getattr(fixed, key) for key in own if key not in NUMBERS)
    )
    return list(dict.fromkeys(each for each in found if each.streams <= max(each.threads, fixed.streams)))


def _threads(cores: int) -> list[int]:
    """Return all cores, one less for the rest of the line, and half of them."""
    return list(dict.fromkeys([cores, max(1, cores - 1), max(1, cores // 2)]))


def _streams(threads: int) -> list[int]:
    """Return 1, 2, 4 and so on, and one stream per thread.

    >>> _streams(6)
    [1, 2, 4, 6]
    """
    powers = [2**power for power in range(threads.bit_length()) if 2**power < threads]
    return [*powers, threads]
