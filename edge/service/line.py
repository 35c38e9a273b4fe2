"""A line as its configuration describes it: everything loaded and verified, nothing running yet."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from edge.bundle import Bundle, ProvenEngine, open_bundle, open_proven_engine
from edge.bundle.trusted import Signer, require_trusted, signer_of
from edge.cameras.base import FrameSource
from edge.cameras.folder import FolderCamera
from edge.config import CameraConfig, LineConfig
from edge.delivery.publisher import bind
from edge.errors import ConfigError, DeliveryError
from edge.inspection.inspector import Inspector
from edge.inspection.verdict import Thresholds


@dataclass(frozen=True)
class Line:
    """What `heatline check` verifies and `heatline run` runs."""

    config: LineConfig
    bundle: Bundle
    signed_by: Signer | None
    """None where nobody signed and the configuration allows that."""
    proven: ProvenEngine
    inspector: Inspector


def prepare_line(config: LineConfig) -> Line:
    """Open and verify the bundle, see who signed it, compile it, and run its golden tiles on this machine.

    Raises:
        BundleError, EngineError: the first thing that is not as it must be.
        ConfigError: an override that does not fit the bundle.
    """
    bundle = open_bundle(config.bundle)
    # Before any engine reads a graph: who may make graphs may make much happen.
    signed_by = (signer_of if config.allow_unsigned else require_trusted)(bundle, config.trusted_keys)
    overlap, tile = config.tiles.overlap_px, bundle.manifest.grid.tile_px
    if overlap is not None and overlap >= tile:
        raise ConfigError(f"tiles.overlap_px is {overlap}, the bundle's tiles are {tile} px; expected less")
    proven = open_proven_engine(
        bundle,
        config.engine.kind,
        config.engine.precision,
        threads=config.engine.threads,
        streams=config.engine.streams,
        batch=config.engine.batch,
    )
    inspector = Inspector(bundle.manifest, proven.engine, thresholds=_thresholds(config, bundle), overlap_px=overlap)
    return Line(config, bundle, signed_by, proven, inspector)


def make_source(config: CameraConfig) -> FrameSource:
    """The camera that a configuration describes, not opened yet."""
    return FolderCamera(config.name, config.path, rate_fps=config.rate_fps, loop=config.loop)


@contextlib.contextmanager
def open_sources(configs: list[CameraConfig]) -> Iterator[dict[str, tuple[FrameSource, str]]]:
    """All cameras, opened, by name, each with what was found; closed at the end.

    Raises:
        CameraError: one cannot be opened.
    """
    with contextlib.ExitStack() as opened:
        sources = {}
        for config in configs:
            source = make_source(config)
            found = source.open()
            opened.callback(source.close)
            sources[config.name] = source, found
        yield sources


def check_address(address: str) -> None:
    """Bind an address for a moment.

    Raises:
        DeliveryError: it cannot be bound.
    """
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        try:
            bind(socket, address)
        except zmq.ZMQError as error:
            raise DeliveryError(
                f"{address} cannot be bound ({error.strerror}); is another line using it, or is the address "
                "not of this machine? Set events.bind"
            ) from error


def _thresholds(config: LineConfig, bundle: Bundle) -> Thresholds:
    calibration, own = bundle.manifest.calibration, config.thresholds
    return Thresholds(
        score=calibration.score_threshold if own.score is None else own.score,
        evidence=calibration.evidence_threshold if own.evidence is None else own.evidence,
    )
