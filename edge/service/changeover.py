"""Another setup in force while the line runs: made ready beside the one that inspects, exchanged between two frames.

Whatever fails, what was in force stays, and a `change` event says why.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edge.config import LineConfig, load_config
from edge.delivery.command_server import Answer
from edge.errors import CameraError, ConfigError, DeliveryError, HeatlineError
from edge.service.events import bundle_name
from edge.service.line import Line
from edge.service.loading import Prepared, describe, describe_plausibility, prepare
from edge.service.product_memory import ProductMemory
from edge.service.reconfigure import reconfigure, require_exchangeable, require_known
from edge.service.systemd import notify, notify_reloading
from edge.util.text import utf8_safe
from edge.util.threads import NamedThread
from edge.wire import commands
from edge.wire.events import Change

logger = logging.getLogger(__name__)

CLOSE_WITHIN_SECONDS = 2.0


class Changeover:
    """One change at a time, on a thread of its own; any thread may ask for one.

    Args:
        path: the line's file, read again at a reload.
        config: the line's, with all its products.
        in_force: what the line inspects by.
        memory: keeps which product was selected.
    """

    def __init__(self, line: Line, path: Path, config: LineConfig, in_force: Prepared, memory: ProductMemory) -> None:
        self._line, self._path, self._config, self._in_force, self._memory = line, path, config, in_force, memory
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._open = self._closed = False
        self.changing: str | None = None
        """What is being made ready, in words."""
        self.last: Change | None = None

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
            answer(commands.refusal("unknown_product", utf8_safe(str(error))))
            return
        if self._begin(f"product {product}", lambda: self._select(product, answer)):
            return
        if self._closed:
            answer(commands.refusal("stopping", "the line is stopping"))
        elif not self._open:
            answer(commands.refusal("busy", "the line is starting; ask again"))
        else:
            answer(commands.refusal("busy", f"{self.changing or 'another change'} is being made ready; ask again"))

    @property
    def unremembered(self) -> str | None:
        """Why the product in force will not be in force after a restart."""
        return self._memory.fault

    def remember_again(self) -> None:
        """Write down the selected product where that failed: there may be room by now."""
        selected = self._memory.selected
        if self._memory.fault is not None and selected is not None:
            self._begin(None, lambda: self._memory.remember(selected))

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
        notify_reloading()
        try:
            config = load_config(self._path)
            require_exchangeable(self._config, config)
            # A product that was selected stays in force, unless the file has it no more.
            selected = self._memory.selected
            known = selected in [product.name for product in config.products]
            self._exchange("reload", config, selected if known else config.product)
        except Exception as error:
            self._refuse("reload", _why(error))
        finally:
            if not self._closed:
                notify("READY=1")

    def _select(self, product: str, answer: Answer) -> None:
        try:
            if self._in_force.setup.product != product:
                self._exchange("select", self._config, product)
        except Exception as error:
            why = f"product {product}: {_why(error)}"
            self._refuse("select", why)
            answer(commands.refusal("unusable" if isinstance(error, HeatlineError) else "fault", why))
            return
        self._memory.remember(product)
        self._over()
        answer(commands.Selected(product=product, bundle=bundle_name(self._in_force.setup)))

    def _exchange(self, change: Literal["reload", "select"], config: LineConfig, product: str | None) -> None:
        """Make ready, and put in force.

        Raises:
            HeatlineError: why not; what was in force still is.
        """
        before = self._in_force
        wanted = config.of_product(product)
        require_known(before.config, wanted)
        prepared = prepare(wanted, like=before)
        told = Change(change=change, applied=True, at_ns=time.time_ns())

        def put_in_force() -> None:
            self._line.pipeline.activate(prepared.setup)
            self._config, self._in_force, self.last = config, prepared, told
            self._over()

        try:
            with reconfigure(self._line.cameras, before.config.cameras, prepared.config.cameras):
                self._line.events.exchange(told, prepared.setup, put_in_force)
        except CameraError:
            if prepared.setup.verified is not before.setup.verified:
                prepared.setup.verified.engine.close()
            raise
        logger.info("in force: %s%s", describe(prepared), describe_plausibility(before, prepared))

    def _refuse(self, change: Literal["reload", "select"], detail: str) -> None:
        logger.error("%s refused, and what was in force still is: %s", change, detail)
        self.last = Change(change=change, applied=False, detail=detail, at_ns=time.time_ns())
        self._over()
        self._line.events.refusal(self.last)


def _why(error: Exception) -> str:
    if isinstance(error, HeatlineError):
        return utf8_safe(str(error))
    logger.error("a change failed, which is a fault of heatline", exc_info=error)
    return f"heatline failed at it, which is a fault of its own ({type(error).__name__}); see the line's log"
