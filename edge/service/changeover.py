"""Changes what a running line inspects by: prepares a new setup beside the active one, and activates it between frames.

If anything fails, the active setup stays active, and a `change` event gives the reason.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from heatline.edge.bundle import VerifiedEngine
from heatline.edge.config import LineConfig, load_config
from heatline.edge.delivery.commands import Answer
from heatline.edge.errors import ConfigError, DeliveryError, HeatlineError
from heatline.edge.service.events import bundle_name
from heatline.edge.service.line import Line
from heatline.edge.service.loading import PreparedSetup, describe_plausibility_change, describe_setup, prepare
from heatline.edge.service.product_memory import ProductMemory
from heatline.edge.service.reconfigure import reconfigure, require_exchangeable, require_reversible
from heatline.edge.util.process import NamedThread
from heatline.edge.util.systemd import notify, notify_reloading
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire import commands
from heatline.edge.wire.events import Change

logger = logging.getLogger(__name__)

CLOSE_WITHIN_SECONDS = 2.0


class Changeover:
    """Runs one change at a time on its own thread. Any thread may request a change.

    Args:
        path: the line's file, read again at a reload.
        config: the line's configuration, with all its products.
        active: what the line inspects by at first.
        memory: stores which product was selected.
    """

    def __init__(
        self, line: Line, path: Path, config: LineConfig, active: PreparedSetup, memory: ProductMemory
    ) -> None:
        self._line, self._path, self._config, self._active, self._memory = line, path, config, active, memory
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._open = self._closed = False
        self.changing: str | None = None
        """A description of what is being prepared; None while there is no change."""
        self.last: Change | None = None
        """The last change, applied or refused."""

    def open(self) -> None:
        """Accept requests from now on. Call this once cameras grab: their grab threads reconfigure them."""
        self._open = True

    def reload(self) -> bool:
        """Read the line's file again and activate it. Return False if another change is running: try again later."""
        return self._begin("the line's file", self._reload)

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
        elif not self._open:
            answer(commands.refusal("busy", "the line is starting; try again"))
        else:
            answer(commands.refusal("busy", f"{self.changing or 'another change'} is being prepared; try again"))

    @property
    def product_not_stored(self) -> str | None:
        """Why a restart may activate another product; None if it does not."""
        return self._memory.fault

    def retry_storing_product(self) -> None:
        """Store the selected product if that failed before: the disk may have room now."""
        selected = self._memory.selected
        if self._memory.fault is not None and selected is not None:
            self._begin(None, lambda: self._memory.store(selected))

    def close(self) -> None:
        """Start no more changes."""
        with self._lock:
            self._closed = True

    def join(self) -> bool:
        """Wait up to 2 s for the running change. Return whether it has ended."""
        if self._worker is None:
            return True
        self._worker.join(CLOSE_WITHIN_SECONDS)
        return not self._worker.is_alive()

    def _begin(self, description: str | None, work: Callable[[], None]) -> bool:
        with self._lock:
            if self.changing is not None or not self._open or self._closed:
                return False
            self.changing = description
            former = self._worker
            self._worker = NamedThread("changeover", self._run, work, former)
            self._worker.start()
            return True

    # The methods below run on the worker's thread. A change is finished before its event is sent, because a client may
    # request the next change as soon as it receives the event. The next worker then waits for this one to end.

    def _finish(self) -> None:
        with self._lock:
            if self._worker is threading.current_thread():  # otherwise the next change has begun
                self.changing = None

    def _run(self, work: Callable[[], None], former: threading.Thread | None) -> None:
        if former is not None:
            former.join()
        try:
            work()
        except DeliveryError:  # the publisher is closed, so no client can receive the event
            if not self._closed:
                raise
        finally:
            self._finish()

    def _reload(self) -> None:
        notify_reloading()
        try:
            config = load_config(self._path)
            require_exchangeable(self._config, config)
            # The selected product stays active unless the file no longer has it.
            selected = self._memory.selected
            known = selected in [product.name for product in config.products]
            self._exchange("reload", config, selected if known else config.product)
        except Exception as error:
            self._refuse("reload", _describe_error(error))
        finally:
            if not self._closed:
                notify("READY=1")

    def _select(self, product: str, answer: Answer) -> None:
        try:
            if self._active.setup.product != product:
                self._exchange("select", self._config, product)
        except Exception as error:
            detail = f"product {product}: {_describe_error(error)}"
            self._refuse("select", detail)
            answer(commands.refusal("unusable" if isinstance(error, HeatlineError) else "fault", detail))
            return
        self._memory.store(product)
        self._finish()
        answer(commands.Selected(product=product, bundle=bundle_name(self._active.setup)))

    def _exchange(self, change: Literal["reload", "select"], config: LineConfig, product: str | None) -> None:
        """Prepare a setup and activate it.

        Raises:
            HeatlineError: the setup cannot be used; the former one is still active.
        """
        before = self._active
        wanted = config.of_product(product)
        require_reversible(before.config, wanted)
        prepared = prepare(wanted, active=before)
        applied = Change(change=change, applied=True, at_ns=time.time_ns())

        def activate() -> None:
            self._line.ledger.activate(prepared.setup)
            self._config, self._active, self.last = config, prepared, applied
            self._finish()

        with reconfigure(self._line.cameras, before.config.cameras, prepared.config.cameras):
            self._line.events.emit_activation(applied, prepared.setup, activate)
        if prepared.setup.verified is not before.setup.verified:
            _close_once_unused(before.setup.verified)
        logger.info("active: %s%s", describe_setup(prepared), describe_plausibility_change(before, prepared))

    def _refuse(self, change: Literal["reload", "select"], detail: str) -> None:
        logger.error("%s refused, and nothing has changed: %s", change, detail)
        self.last = Change(change=change, applied=False, detail=detail, at_ns=time.time_ns())
        self._finish()
        self._line.events.emit_refusal(self.last)


def _close_once_unused(verified: VerifiedEngine) -> None:
    """Close an engine, on a thread of its own, once the last frame that it inspects is reported: only the setups of
    frames hold it. Its last answers may take long, and no frame waits for them.
    """
    engine = verified.engine
    weakref.finalize(verified, lambda: NamedThread("retire", engine.close).start()).atexit = False


def _describe_error(error: Exception) -> str:
    if isinstance(error, HeatlineError):
        return utf8_safe(str(error))
    logger.error("a change failed because of a fault in heatline", exc_info=error)
    return f"heatline has a fault ({type(error).__name__}); see the line's log, and report it"
