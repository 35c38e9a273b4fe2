"""Prepares what a line inspects by from its configuration, and changes it while the line runs: a new setup is prepared
beside the active one and activated between frames.

If anything fails, the active setup stays active, and a `change` event gives the reason.
"""

import contextlib
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from msgspec.structs import asdict

from heatline.edge.bundle import Bundle, VerifiedEngine, open_bundle, open_verified_engine
from heatline.edge.bundle.plausibility import Plausibility
from heatline.edge.bundle.signature import describe_signer, signer_of
from heatline.edge.bundle.store import open_screening
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.cameras.supervisor import SupervisedCamera
from heatline.edge.config import LineConfig, load_config
from heatline.edge.config.products import SET_IN_THE_CAMERA
from heatline.edge.delivery.servers import Answer
from heatline.edge.drift import DriftSetup, references_of
from heatline.edge.errors import CameraError, ConfigError, DeliveryError, HeatlineError
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.inspection.inspector import (
    IS_COLLECTED,
    Collecting,
    Inspector,
    LineSetup,
    Setup,
    product_references,
)
from heatline.edge.inspection.screening import ScreeningStage, describe_unscreened
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.reference.reference import Reference
from heatline.edge.service.events import bundle_name
from heatline.edge.service.line import Line
from heatline.edge.util.files import replacing, sync_folder
from heatline.edge.util.process import NamedThread
from heatline.edge.util.systemd import notify, service_folder
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire import commands
from heatline.edge.wire.events import Change

logger = logging.getLogger(__name__)

CLOSE_WITHIN_SECONDS = 2.0
PRODUCT_FILE = "product"
EXCHANGEABLE = {"roi", "exclude", "scale", "ignore_below_mm", "zones", *SET_IN_THE_CAMERA}
"""Keys of cameras that can change without a restart."""


@dataclass(frozen=True)
class PreparedSetup:
    """A configuration and the setup made from it."""

    config: LineConfig
    """With one product in its place, if the line has products."""
    setup: LineSetup

    @property
    def verified(self) -> VerifiedEngine | None:
        """Its engine; None: the line collects."""
        return self.setup.verified if isinstance(self.setup, Setup) else None


def prepare(
    config: LineConfig, active: PreparedSetup | None = None, *, report_step: Callable[[str], None] = lambda _: None
) -> PreparedSetup:
    """Open and verify the bundle, check its signature, compile it, and run its golden tiles on this machine. Without a
    bundle, the line collects.

    Args:
        config: with one product in its place, if the line has products.
        active: the active setup. Its engine is used again if bundle and engine settings are the same.
        report_step: receives a description of each step once the bundle is verified.
    Raises:
        BundleError, EngineError: the first check that fails.
        ConfigError: a setting does not fit the bundle.
    """
    for camera in config.cameras:
        if camera.triggered == "software" and config.commands.bind is None:
            raise ConfigError(
                f"camera {camera.name} is triggered by software, and there is no address to take triggers on; "
                'set commands.bind, e.g. "tcp://127.0.0.1:5557"'
            )
    if config.bundle is None:
        return PreparedSetup(config, Collecting(config.product, config.acting))
    bundle = open_bundle(config.bundle)
    # Before any engine reads a graph: a hostile graph could do much damage.
    required = not config.allow_unsigned
    signed_by = signer_of(bundle.path, bundle.signed_by, config.trusted_keys, required=required)
    references = product_references(bundle, [camera.name for camera in config.cameras])
    overlap, tile = config.tiles.overlap_px, bundle.manifest.grid.tile_px
    if overlap is not None and overlap >= tile:
        raise ConfigError(f"tiles.overlap_px is {overlap}, the bundle's tiles are {tile} px; expected less")
    former = None if active is None or active.config.engine != config.engine else active.setup
    if isinstance(former, Setup) and former.bundle.digest == bundle.digest:
        verified = former.verified
    else:
        # Writing a compiled graph stops all threads for a while, so a line that inspects writes none.
        cache = service_folder("CACHE") if active is None else None
        verified = open_verified_engine(
            bundle,
            config.engine.kind,
            config.engine.precision,
            device=config.engine.device,
            threads=config.engine.threads,
            streams=config.engine.streams,
            batch=config.engine.batch,
            cache=cache,
            say=report_step,
        )
        if bundle.manifest.screening is not None and config.engine.screening and config.engine.kind == "openvino":
            try:
                small = open_screening(bundle, device=config.engine.device, threads=config.engine.threads)
                verified = replace(verified, screening=small)
            except HeatlineError as error:
                logger.warning("%s: every tile runs in full: %s", bundle.path, error)
    areas = {camera.name: camera.region_of_interest for camera in config.cameras}
    checked = config.thresholds.check_plausibility in (None, True)
    thresholds = Thresholds.of(bundle.manifest.calibration, config.thresholds.score, config.thresholds.evidence)
    inspector = Inspector(
        bundle.manifest,
        verified.engine,
        thresholds=thresholds,
        overlap_px=overlap,
        plausibility=bundle.plausibility() if checked else None,
        plausibility_by_camera=_plausibility_by_camera(bundle, areas) if checked else None,
        references=references,
        screening=_screening(bundle, verified, thresholds.score, checked=checked),
    )
    if inspector.screening is not None and (own := sorted(inspector.plausibility_by_camera)):
        names = ", ".join(own)
        logger.warning("%s: every tile of camera %s runs in full, as it was calibrated alone", bundle.path, names)
    if config.thresholds.check_plausibility and inspector.plausibility is None:
        checked_cameras = ", ".join(sorted(inspector.plausibility_by_camera))
        logger.warning(
            "%s does not know what its product looks like, so every frame %sgets a verdict; run heatline calibrate",
            config.bundle,
            f"except those of camera {checked_cameras} " if checked_cameras else "",
        )
    by_camera = {name: inspector.plausibility_by_camera.get(name, inspector.plausibility) for name in areas}
    if unknown := [name for name, known in by_camera.items() if known is not None and not known.knows_areas]:
        logger.warning(
            "%s does not know what areas of the product look like, so a frame of camera %s that was lost or covered in "
            "part may be GOOD; calibrate with more good frames, or export the bundle again",
            config.bundle,
            ", ".join(unknown),
        )
    made_at = bundle.manifest.created_at
    older = [each.name for each in config.cameras if each.scale is not None and each.scale.measured_at < made_at]
    if references and older:
        logger.warning(
            "%s was made after the scale of camera %s was measured, and drift sees no change from before: if the "
            "camera was moved, lengths in mm are wrong; run heatline calibrate scale again, with the same picture if "
            "it was not",
            config.bundle,
            ", ".join(older),
        )
    setup = Setup(
        bundle,
        verified,
        inspector,
        signed_by=signed_by,
        product=config.product,
        areas=areas,
        cameras={camera.name: camera for camera in config.cameras},
        acting=config.acting,
        heatmaps=config.events.heatmaps,
        drift=_drift(config, bundle, areas, references),
    )
    return PreparedSetup(config, setup)


def _screening(bundle: Bundle, verified: VerifiedEngine, score: float, *, checked: bool) -> ScreeningStage | None:
    """Return the stage that clears tiles; None: every tile runs in full."""
    stated = bundle.manifest.screening
    if stated is None or verified.screening is None:
        return None
    if score < stated.score_threshold:
        logger.warning("%s: %s", bundle.path, describe_unscreened(score, stated))
        return None
    plausibility = bundle.screening_plausibility() if checked else None
    return ScreeningStage(stated, verified.screening, bundle.manifest.grid.tile_px, plausibility)


def _drift(
    config: LineConfig,
    bundle: Bundle,
    areas: Mapping[str, RegionOfInterest],
    references: Mapping[str, Reference],
) -> DriftSetup:
    """Return what frames are compared with; log if nothing."""
    watched = references_of(bundle, areas, references) if config.drift.watch else {}
    if config.drift.watch and (unwatched := sorted(areas.keys() - watched.keys())):
        logger.info(
            "drift of camera %s is not watched, as %s does not say what to compare with; run heatline calibrate",
            ", ".join(unwatched),
            config.bundle,
        )
    return DriftSetup(watched, config.drift.frames, config.drift.every_s)


def _plausibility_by_camera(bundle: Bundle, areas: Mapping[str, RegionOfInterest]) -> dict[str, Plausibility]:
    """Return the bounds of cameras that were calibrated alone and still have the same region of interest."""
    known = bundle.plausibility_by_camera()
    for camera in known.keys() & areas.keys():
        if known[camera][0] != areas[camera]:
            logger.warning(
                "camera %s has another region of interest than when it was calibrated, so the bounds for all cameras "
                "are used; run heatline cameras calibrate again",
                camera,
            )
    return {camera: plausibility for camera, (area, plausibility) in known.items() if areas.get(camera) == area}


def describe_setup(prepared: PreparedSetup) -> str:
    """Describe what frames are inspected by: product, bundle, engine and signature."""
    setup = prepared.setup
    of_product = "" if setup.product is None else f"product {setup.product}, "
    if not isinstance(setup, Setup):
        return f"{of_product}no verdict: {IS_COLLECTED.detail}"
    manifest = setup.bundle.manifest
    return (
        f"{of_product}{manifest.name} {manifest.version} ({setup.bundle.digest[:12]}) by {setup.verified.engine.name} "
        f"in {setup.verified.computes_in}, signed by {describe_signer(setup.signed_by)}"
        f"{'' if setup.acting else ', not acting'}"
        f"{'' if setup.inspector.screening is None else ', clearing surely good tiles'}"
        f"{'' if setup.inspector.plausibility else '; every frame gets a verdict, whatever it shows'}"
    )


class ProductMemory:
    """Stores which product was selected last, so that a line that restarts after a fault inspects the same product;
    without a folder, nothing is stored. The default is active if none was selected.
    """

    def __init__(self, folder: Path | None, names: Sequence[str], default: str | None) -> None:
        self.selected: str | None = None
        """The product that was selected, also before the start; None if none was."""
        self.fault: str | None = None
        """Why a restart may activate another product; None if it does not."""
        self._file, self._default = None if folder is None else folder / PRODUCT_FILE, default
        if not names or self._file is None:
            return
        try:
            selected = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            self.fault = f"the product that was selected before the start cannot be read ({error})"
            logger.error("%s; product %s is active", self.fault, default)
            return
        if selected in names:
            self.selected = selected
        else:
            logger.warning("product %r was selected, but the line no longer has a product of that name", selected)

    def store(self, product: str) -> None:
        """Store the selected product; after a crash, the file has either the old or the new one. If that fails, set
        `fault`; without a folder, log a warning.
        """
        self.selected = product
        if self._file is None:
            if product != self._default:
                logger.warning(
                    "a restart activates product %s, not %s: there is no folder to store the selection in; "
                    "set journal.folder, or run the line as a service",
                    self._default,
                    product,
                )
            return
        folder = self._file.parent
        try:
            with replacing(self._file) as new:
                new.write_text(product, encoding="utf-8")
            sync_folder(folder)
            self.fault = None
        except OSError as error:
            if self.fault is None:
                logger.error("%s cannot be written (%s): a restart may undo the selection", folder, error)
            self.fault = f"{folder} cannot be written: a restart may undo the selection"


class Changeover:
    """Runs one change at a time on its own thread. Any thread may request a change.

    Args:
        path: the line's file, read again at a reload.
        config: with all products.
        active: what the line inspects by at first.
    """

    def __init__(
        self, line: Line, path: Path, config: LineConfig, active: PreparedSetup, memory: ProductMemory
    ) -> None:
        self._line, self._path, self._config, self._active, self.memory = line, path, config, active, memory
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = NamedThread("changeover", self._run)
        self._worker.start()
        self._open = self._closed = False
        self.changing: str | None = None
        """A description of what is being prepared; None while there is no change."""
        self.last: Change | None = None
        """The last change, applied or refused."""

    def open(self) -> None:
        """Accept requests from now on. Call this once cameras grab: their grab threads reconfigure them."""
        self._open = True

    def reload(self, by: str | None = None) -> bool:
        """Read the line's file again and activate it, for whom it names. Return False if another change is running: try
        again later.
        """
        return self._begin("the line's file", lambda: self._reload(by))

    def select(self, product: str, answer: Answer) -> None:
        """Activate a product. Answer once it is active, or with the reason why it is not."""
        try:
            self._config.of_product(product)
        except ConfigError as error:
            answer(commands.refusal("unknown_product", utf8_safe(str(error))))
            return
        if self._begin(f"product {product}", lambda: self._select(product, answer)):
            return
        if self._closed:
            answer(commands.refusal("stopping", "the line is stopping"))
        else:
            doing = f"{self.changing or 'another change'} is being prepared" if self._open else "the line is starting"
            answer(commands.refusal("busy", f"{doing}; try again"))

    def retry_storing_product(self) -> None:
        """Store the selected product if that failed before: the disk may have room now."""
        selected = self.memory.selected
        if self.memory.fault is not None and selected is not None:
            self._begin(None, lambda: self.memory.store(selected))

    def close(self) -> None:
        """Start no more changes."""
        with self._lock:
            self._closed = True

    def join(self) -> bool:
        """Wait up to 2 s for the running change. Return whether it has ended."""
        self._work.put(None)
        self._worker.join(CLOSE_WITHIN_SECONDS)
        return not self._worker.is_alive()

    def _begin(self, description: str | None, work: Callable[[], None]) -> bool:
        with self._lock:
            if self.changing is not None or not self._open or self._closed:
                return False
            self.changing = description
            self._work.put(work)
            return True

    # The methods below run on the worker's thread. A change is finished before its event is sent, because a client may
    # request the next change as soon as it receives the event. That one then waits for this one to end.

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except DeliveryError:  # the publisher is closed, so no client can receive the event
                pass
            except Exception:  # later changes must still be made
                logger.exception("a change was left unfinished")
                self.changing = None

    def _reload(self, by: str | None) -> None:
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")  # READY=1 ends it
        try:
            config = load_config(self._path)
            require_exchangeable(self._config, config)
            # The selected product stays active unless the file no longer has it.
            selected = self.memory.selected
            known = selected in [product.name for product in config.products]
            self._exchange("reload", config, selected if known else config.product, by)
        except Exception as error:
            self._refuse("reload", _describe_error(error), by)
        finally:
            if not self._closed:
                notify("READY=1")

    def _select(self, product: str, answer: Answer) -> None:
        try:
            if self._active.setup.product == product:
                self.changing = None
            else:
                self._exchange("select", self._config, product)
        except Exception as error:
            detail = f"product {product}: {_describe_error(error)}"
            self._refuse("select", detail)
            answer(commands.refusal("unusable" if isinstance(error, HeatlineError) else "fault", detail))
            return
        self.memory.store(product)
        answer(commands.Selected(product=product, bundle=bundle_name(self._active.setup)))

    def _exchange(
        self, change: Literal["reload", "select"], config: LineConfig, product: str | None, by: str | None = None
    ) -> None:
        """Prepare a setup and activate it; at a HeatlineError, the former one is still active."""
        before = self._active
        wanted = config.of_product(product)
        require_reversible(before.config, wanted)
        prepared = prepare(wanted, active=before)
        applied = Change(change=change, applied=True, by=by, at_ns=time.time_ns())

        def activate() -> LineSetup:
            self._line.ledger.activate(prepared.setup)
            self._config, self._active, self.last = config, prepared, applied
            self.changing = None
            return prepared.setup

        with reconfigure(self._line.cameras, before.config.cameras, prepared.config.cameras):
            self._line.events.emit_change(applied, activate)
        if before.verified is not None and prepared.verified is not before.verified:
            # Closed, on threads of their own, once the last frame that they inspect is reported: only the setups of
            # frames hold them. Their last answers may take long, and no frame waits for them.
            for engine in filter(None, (before.verified.engine, before.verified.screening)):
                weakref.finalize(before.verified, NamedThread("retire", engine.close).start).atexit = False
        self._line.shadow.begin(prepared.config)
        logger.info("active: %s", describe_setup(prepared))

    def _refuse(self, change: Literal["reload", "select"], detail: str, by: str | None = None) -> None:
        logger.error("%s refused, and nothing has changed: %s", change, detail)
        self.last = Change(change=change, applied=False, detail=detail, by=by, at_ns=time.time_ns())
        self.changing = None
        self._line.events.emit_change(self.last)


def _describe_error(error: Exception) -> str:
    if isinstance(error, HeatlineError):
        return utf8_safe(str(error))
    logger.error("a change failed because of a fault in heatline", exc_info=error)
    return f"heatline has a fault ({type(error).__name__}); see the line's log, and report it"


# The cameras of a running line.


@contextlib.contextmanager
def reconfigure(
    cameras: Mapping[str, SupervisedCamera], before: Sequence[CameraSettings], after: Sequence[CameraSettings]
) -> Iterator[None]:
    """Open the cameras whose own settings differ with the new settings. They send no frame before the block ends.

    Frames that were announced before still come, with the old settings.

    Raises:
        CameraError: a camera cannot be opened with its new settings; all cameras have the old ones again.
    """
    pairs = [
        (old, new)
        for old, new in zip(before, after, strict=True)
        if any(getattr(old, key, None) != getattr(new, key, None) for key in SET_IN_THE_CAMERA)
    ]
    proceed = threading.Event()
    opened = {new.name: cameras[new.name].reconfigure(new, proceed) for _, new in pairs}
    # Each gets a result, as opening a camera has a time limit.
    errors = [f"camera {name}: {error}" for name, each in opened.items() if (error := each.result()) is not None]
    if errors:
        # Requested before the others proceed, so that no frame with the refused settings is inspected.
        again = [cameras[old.name].reconfigure(old, proceed, keep_frames=False) for old, _ in pairs]
        proceed.set()
        wait(again)
        raise CameraError("; ".join(errors))
    try:
        yield
    finally:
        proceed.set()


def require_reversible(now: LineConfig, wanted: LineConfig) -> None:
    """Check that both values of each camera setting that changes are known: otherwise it could not be set back."""
    for old, new in zip(now.cameras, wanted.cameras, strict=True):
        for key in sorted(SET_IN_THE_CAMERA):
            if (getattr(old, key, None) is None) != (getattr(new, key, None) is None):
                was, is_now = ("not set", "set") if getattr(old, key) is None else ("set", "not set")
                raise ConfigError(
                    f"{key} of camera {old.name} was {was} and is {is_now} now; restart the line to activate this"
                )


def require_exchangeable(now: LineConfig, wanted: LineConfig) -> None:
    """Check that nothing differs that needs a restart."""
    ours, theirs = _set_at_start(now), _set_at_start(wanted)
    for key in ours | theirs:
        was, is_now = ours.get(key), theirs.get(key)
        if was != is_now:
            raise ConfigError(f"{key} was {was!r} and is {is_now!r} now; restart the line to activate this")


def _set_at_start(config: LineConfig) -> dict[str, object]:
    """Return what only a start reads: addresses, whole tables, and most of each camera, by their keys in the file."""
    found: dict[str, object] = {"events.bind": config.events.bind, "commands.bind": config.commands.bind}
    tables = {name: getattr(config, name) for name in ("journal", "security", "evidence", "web", "part", "collect")}
    for name, table in tables.items():
        found[f"[{name}]"] = "absent" if table is None else "present"
        found |= {f"{name}.{key}": value for key, value in ({} if table is None else asdict(table)).items()}
    found["cameras"] = ", ".join(camera.name for camera in config.cameras)
    for camera in config.cameras:
        of_camera = {"kind": camera.__struct_config__.tag, **asdict(camera)}
        found |= {f"{key} of camera {camera.name}": of_camera[key] for key in of_camera.keys() - EXCHANGEABLE}
    return {key: str(value) if isinstance(value, Path) else value for key, value in found.items()}
