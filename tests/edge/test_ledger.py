"""The frame ledger: its accounts always balance, also while threads book."""

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heatline.edge.inspection.ledger import Ledger
from heatline.edge.wire.events import Account

CAMERAS = ["top", "side"]


class LedgerMachine(RuleBasedStateMachine):
    """Captures and bookings in any order, compared with a reference ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(CAMERAS)
        self.expected = {camera: Account() for camera in CAMERAS}

    def update_expected(self, camera: str, **changes: object) -> None:
        fields = {name: getattr(self.expected[camera], name) for name in Account.__struct_fields__}
        self.expected[camera] = Account(**{**fields, **changes})

    def in_flight(self) -> list[str]:
        return [camera for camera, account in self.expected.items() if account.in_flight]

    @rule(camera=st.sampled_from(CAMERAS), frames=st.integers(1, 1000))
    def captured(self, camera: str, frames: int) -> None:
        account = self.expected[camera]
        first = self.ledger.captured(camera) if frames == 1 else self.ledger.captured(camera, frames)
        assert first == account.captured + 1, "numbers have no gap and no overlap, also after runs"
        self.update_expected(camera, captured=account.captured + frames, in_flight=account.in_flight + frames)

    @precondition(lambda self: self.in_flight())
    @rule(data=st.data(), end=st.sampled_from(["inspected", "dropped", "failed"]), reason=st.sampled_from("ab"))
    def ended(self, data: st.DataObject, end: str, reason: str) -> None:
        camera = data.draw(st.sampled_from(self.in_flight()))
        account = self.expected[camera]
        if end == "inspected":
            self.ledger.inspected(camera)
            self.update_expected(camera, inspected=account.inspected + 1, in_flight=account.in_flight - 1)
            return
        frames = data.draw(st.integers(1, account.in_flight))
        book = self.ledger.dropped if end == "dropped" else self.ledger.failed
        book(camera, reason) if frames == 1 else book(camera, reason, frames)
        bins = dict(getattr(account, end))
        bins[reason] = bins.get(reason, 0) + frames
        self.update_expected(camera, in_flight=account.in_flight - frames, **{end: bins})

    @invariant()
    def balanced_and_equal_to_the_reference(self) -> None:
        accounts = self.ledger.accounts()
        assert accounts == self.expected
        assert all(account.balanced for account in accounts.values())


LedgerMachine.TestCase.settings = settings(stateful_step_count=30)
test_any_sequence_of_bookings_balances = LedgerMachine.TestCase


def test_accounts_balance_while_threads_book_and_frame_numbers_have_no_gaps() -> None:
    ledger, looks, runs = Ledger(CAMERAS), [], list[tuple[str, int, int]]()  # list.append is atomic
    rounds, booking = 1000, threading.Event()

    def book(camera: str, frames: int) -> None:
        booking.wait()
        for number in range(rounds):
            runs.append((camera, ledger.captured(camera, frames), frames))
            if number % 2 == 0:
                ledger.dropped(camera, "overload", frames)
            else:
                ledger.failed(camera, "unreadable", frames)

    threads = [threading.Thread(target=book, args=(camera, frames)) for camera in CAMERAS for frames in (1, 2, 7)]
    for thread in threads:
        thread.start()
    booking.set()
    while any(thread.is_alive() for thread in threads):
        looks.append(ledger.accounts())
    for thread in threads:
        thread.join()
    assert all(account.balanced and account.in_flight <= 10 for look in looks for account in look.values())
    half = 10 * rounds // 2
    assert ledger.accounts() == dict.fromkeys(CAMERAS, Account(2 * half, 0, {"overload": half}, {"unreadable": half}))
    for camera in CAMERAS:
        reached = 0
        for first, frames in sorted((first, frames) for name, first, frames in runs if name == camera):
            assert first == reached + 1
            reached += frames


def test_an_account_with_more_booked_than_captured_frames_is_not_balanced() -> None:
    ledger = Ledger(["top"])
    ledger.captured("top", 2)
    ledger.dropped("top", "overload", 3)
    account = ledger.accounts()["top"]
    assert account == Account(2, 0, {"overload": 3}, {}, -1)
    assert not account.balanced


def test_an_unknown_camera_is_an_error_and_a_returned_account_does_not_change() -> None:
    ledger = Ledger(["top"])
    before = ledger.accounts()
    with pytest.raises(KeyError):
        ledger.captured("bottom")
    ledger.captured("top")
    ledger.failed("top", "engine")
    assert before == {"top": Account()}
    assert list(ledger.accounts()) == ["top"]


def test_an_account_balances_only_if_each_captured_frame_is_in_one_bin() -> None:
    for balanced in (
        Account(),  # no frame was captured yet
        Account(3, 1, {"overload": 1}, {"engine": 1}, 0),  # one in each bin
        Account(3, 1, {"overload": 1}, {}, 1),  # one is in flight
    ):
        assert balanced.balanced
    for wrong in (
        Account(3, 3, {}, {}, 1),  # more booked than captured
        Account(3, 1, {"overload": 1}, {}, 0),  # one is lost
        Account(0, 1, {}, {}, -1),  # booked and never captured
    ):
        assert not wrong.balanced
