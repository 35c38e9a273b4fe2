"""Another setup in force while the line runs: made ready beside the one that inspects, exchanged between two frames.

Whatever fails, what was in force stays, and a `change` event says why.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from msgspec.structs import asdict

from edge.bundle.trusted import signer_in_words
from edge.cameras.supervisor import SupervisedCamera
from edge.config import LineConfig, load_config
from edge.delivery import commands
from edge.delivery.messages import Change
from edge.errors import CameraError, ConfigError, DeliveryError, HeatlineError
from edge.inspection.pipeline import Pipeline
from edge.inspection.setup import Setup
from edge.named_thread import NamedThread
from edge.products import SET_IN_THE_CAMERA
from edge.service.preparing import Prepared, prepare
from edge.service.product_memory import remember_product
from edge.service.reporter import bundle_name
from edge.service.setting_anew import set_anew
from edge.service.teller import Teller
from edge.text import sayable

logger = logging.getLogger(__name__)

CLOSE_WITHIN_SECONDS = 2.0

EXCHANGEABLE = {"look_at", "look_away", *SET_IN_THE_CAMERA}
"""Keys of cameras that need no restart."""

Answer = Callable[[commands.Reply], None]


class Changeover:
    """One change at a time, on a thread of its own; any thread may ask for one.

    Args:
        path: the line's file, read again at a reload.
        config: the line's, with all its products.
        in_force: what the pipeline inspects by.
        selected: the product that was selected, before the start as well; None where none ever was.
        unremembered: why it is not known.
        remember_in: where it is kept; None: nowhere.
        reloading: hears of a reload's beginning and end.
    """

    def __init__(
        self,
        path: Path,
        config: LineConfig,
        in_force: Prepared,
        pipeline: Pipeline,
        cameras: Mapping[str, SupervisedCamera],
        teller: Teller,
        *,
        selected: str | None,
        unremembered: str | None = None,
        remember_in: Path | None,
        reloading: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._path, self._config, self._in_force = path, config, in_force
        self._pipeline, self._cameras, self._teller = pipeline, cameras, teller
        self._selected, self._remember_in, self._reloading = selected, remember_in, reloading
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._open = self._closed = False
        self.changing: str | None = None
        """What is being made ready, in words."""
        self.last: Change | None = None
        self.unremembered = unremembered
        """Why the product in force will not be in force after a restart."""

    def open(self) -> None:
        """Take requests from now on: cameras are set anew by the threads that grab."""
        self._open = True

    def reload(self) -> bool:
        """Put in force what the line's file says now; False where another change is under way: ask again."""
        return self._begin("the line's file", self._reload)

    def select(self, product: str, answer: Answer) -> None:
        """Put a product in force; the answer comes once it is, or says why it is not."""
        try:
            self._config.of_product(product)
        except ConfigError as error:
            answer(commands.refusal("unknown_product", sayable(str(error))))
            return
        if self._begin(f"product {product}", lambda: self._select(product, answer)):
            return
        if self._closed:
            answer(commands.refusal("stopping", "the line is stopping"))
        elif not self._open:
            answer(commands.refusal("busy", "the line is starting; ask again"))
        else:
            answer(commands.refusal("busy", f"{self.changing or 'another change'} is being made ready; ask again"))

    def remember_again(self) -> None:
        """Write down the selected product where that failed: there may be room by now."""
        selected = self._selected
        if self.unremembered is not None and selected is not None:
            self._begin(None, lambda: self._remember(selected))

    def close(self) -> None:
        """Begin no more."""
        with self._lock:
            self._closed = True

    def join(self) -> bool:
        """Give the one that is under way a moment to end; whether it has."""
        if self._worker is None:
            return True
        self._worker.join(CLOSE_WITHIN_SECONDS)
        return not self._worker.is_alive()

    def _begin(self, what: str | None, work: Callable[[], None]) -> bool:
        with self._lock:
            if self.changing is not None or not self._open or self._closed:
                return False
            self.changing = what
            former = self._worker
            self._worker = NamedThread("changeover", self._run, work, former)
            self._worker.start()
            return True

    # On the worker's thread. What it changes is over before that is told: who hears of it may ask for the next at once,
    # which then waits for this one's last lines.

    def _over(self) -> None:
        with self._lock:
            if self._worker is threading.current_thread():  # else another one has begun
                self.changing = None

    def _run(self, work: Callable[[], None], former: threading.Thread | None) -> None:
        if former is not None:
            former.join()
        try:
            work()
        except DeliveryError:  # nobody is left to hear of it
            if not self._closed:
                raise
        finally:
            self._over()

    def _reload(self) -> None:
        self._reloading(True)
        try:
            config = load_config(self._path)
            _require_exchangeable(self._config, config)
            # A product that was selected stays in force, unless the file has it no more.
            selected = self._selected in [product.name for product in config.products]
            self._exchange("reload", config, self._selected if selected else config.product)
        except Exception as error:
            self._refuse("reload", _why(error))
        finally:
            if not self._closed:
                self._reloading(False)

    def _select(self, product: str, answer: Answer) -> None:
        try:
            if self._in_force.setup.product != product:
                self._exchange("select", self._config, product)
        except Exception as error:
            why = f"product {product}: {_why(error)}"
            self._refuse("select", why)
            answer(commands.refusal("unusable" if isinstance(error, HeatlineError) else "fault", why))
            return
        self._remember(product)
        self._over()
        answer(commands.Selected(product=product, bundle=bundle_name(self._in_force.setup)))

    def _exchange(self, change: Literal["reload", "select"], config: LineConfig, product: str | None) -> None:
        """Make ready, and put in force.

        Raises:
            HeatlineError: why not; what was in force still is.
        """
        before = self._in_force
        wanted = config.of_product(product)
        _require_known(before.config, wanted)
        prepared = prepare(wanted, like=before)
        told = Change(change=change, in_force=True, at_ns=time.time_ns())

        def put_in_force(setup: Setup) -> None:
            self._pipeline.put_in_force(setup)
            self._config, self._in_force, self.last = config, prepared, told
            self._over()

        try:
            with set_anew(self._cameras, before.config.cameras, prepared.config.cameras):
                self._teller.exchange(told, prepared.setup, put_in_force)
        except CameraError:
            if prepared.setup.proven is not before.setup.proven:
                prepared.setup.proven.engine.close()
            raise
        logger.info("in force: %s%s", in_words(prepared), describe_plausibility(before, prepared))

    def _refuse(self, change: Literal["reload", "select"], detail: str) -> None:
        logger.error("%s refused, and what was in force still is: %s", change, detail)
        self.last = Change(change=change, in_force=False, detail=detail, at_ns=time.time_ns())
        self._over()
        self._teller.refusal(self.last)

    def _remember(self, product: str) -> None:
        self._selected = product
        try:
            remember_product(self._remember_in, product)
            self.unremembered = None
        except OSError as error:
            if self.unremembered is None:
                logger.error("%s cannot be written (%s): a restart may undo the selection", self._remember_in, error)
            self.unremembered = f"{self._remember_in} cannot be written: a restart may undo the selection"


def _why(error: Exception) -> str:
    if isinstance(error, HeatlineError):
        return sayable(str(error))
    logger.error("a change failed, which is a fault of heatline", exc_info=error)
    return f"heatline failed at it, which is a fault of its own ({type(error).__name__}); see the line's log"


def in_words(prepared: Prepared) -> str:
    """What frames are inspected by."""
    setup, engine = prepared.setup, prepared.engine
    manifest = setup.bundle.manifest
    tuned = "" if engine.tuned_by is None else f", tuned by {engine.tuned_by}: {engine.settings}"
    of_product = "" if setup.product is None else f"product {setup.product}, "
    return (
        f"{of_product}{manifest.name} {manifest.version} ({setup.bundle.digest[:12]}) by {setup.proven.engine.name} in "
        f"{setup.proven.computes_in}, signed by {signer_in_words(setup.signed_by)}{tuned}"
    )


def describe_plausibility(before: Prepared, now: Prepared) -> str:
    """What a change does to frames that do not show the product, for the end of a sentence; nothing if that stays."""
    was, is_now = (each.setup.inspector.plausibility is not None for each in (before, now))
    if was == is_now:
        return ""
    if is_now:
        return "; frames that do not look like the product get no verdict from now on"
    known = now.setup.bundle.manifest.calibration.plausible is not None
    why = "thresholds.check_plausibility says so" if known else "the bundle does not know what they look like"
    return f"; every frame gets a verdict from now on, whatever it looks like, as {why}"


def _require_known(now: LineConfig, wanted: LineConfig) -> None:
    """See that of each setting of a camera that changes both values are known: else it could not be set back.

    Raises:
        ConfigError: one is not.
    """
    for old, new in zip(now.cameras, wanted.cameras, strict=True):
        for key in sorted(SET_IN_THE_CAMERA):
            if (getattr(old, key, None) is None) != (getattr(new, key, None) is None):
                was, is_now = ("not set", "is") if getattr(old, key) is None else ("set", "is not")
                raise ConfigError(
                    f"{key} of camera {old.name} was {was} and {is_now} now; restart the line to put that in force"
                )


def _require_exchangeable(now: LineConfig, wanted: LineConfig) -> None:
    """See that nothing differs that only a restart can put in force.

    Raises:
        ConfigError: something does.
    """
    ours, theirs = _set_at_start(now), _set_at_start(wanted)
    for key in ours:
        if ours[key] != theirs[key]:
            raise ConfigError(
                f"{key} was {ours[key]!r} and is {theirs[key]!r} now; restart the line to put that in force"
            )
    names = [[camera.name for camera in config.cameras] for config in (now, wanted)]
    if names[0] != names[1]:
        raise ConfigError(
            f"the cameras were {', '.join(names[0])} and are {', '.join(names[1])} now; "
            "restart the line to put that in force"
        )
    for old, new in zip(now.cameras, wanted.cameras, strict=True):
        if type(old) is not type(new):
            raise ConfigError(f"camera {old.name} is of another kind now; restart the line to put that in force")
        differing = [
            key for key in old.__struct_fields__ if key not in EXCHANGEABLE and getattr(old, key) != getattr(new, key)
        ]
        if differing:
            raise ConfigError(
                f"{', '.join(differing)} of camera {old.name} changed; restart the line to put that in force"
            )


def _set_at_start(config: LineConfig) -> dict[str, object]:
    """Where the line's sockets and its journal are, and by which keys, by their names in its file."""
    tables = {"journal": config.journal, "security": config.security}
    found: dict[str, object] = {"events.bind": config.events.bind, "commands.bind": config.commands.bind}
    for name, table in tables.items():
        for key, value in asdict(table).items():
            found[f"{name}.{key}"] = str(value) if isinstance(value, Path) else value
    return found
