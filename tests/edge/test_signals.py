"""SIGTERM ends commands that can be continued as Ctrl-C does."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from heatline.edge.util.process import sigterm_as_ctrl_c


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "on_ctrl_c",
    [signal.default_int_handler, signal.SIG_DFL, pytest.param(signal.SIG_IGN, id="job of a script in the background")],
)
def test_sigterm_interrupts_and_its_handler_is_restored(on_ctrl_c: Any) -> None:
    signal.signal(signal.SIGINT, on_ctrl_c)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_calls_the_handler_of_ctrl_c() -> None:
    came: list[int] = []
    with sigterm_as_ctrl_c():
        signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
        signal.raise_signal(signal.SIGTERM)
    assert came == [signal.SIGINT]
