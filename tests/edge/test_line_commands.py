"""`heatline status`, `select` and `reload` on a real line: what they say is what its events say."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from edge.bundle import Bundle
from edge.cli.reload import reload
from edge.cli.select import select
from edge.cli.status import EXIT_CODES, status
from edge.delivery.messages import ChangeEvent, Event, VerdictEvent
from edge.delivery.subscriber import Subscriber
from edge.errors import CommandRefusedError, ConfigError
from tests.command import HEATLINE, WITHIN_SECONDS
from tests.edge.lines import started, write_line_with

PRODUCTS = """
[commands]
bind = "{commands}"
[[products]]
name = "4711"
[[products]]
name = "4712"
[[products]]
name = "9"
bundle = "gone"
"""


def until(events: Subscriber, wanted: Callable[[Any], bool]) -> Event:
    """The next event that is wanted; whoever waits for one that does not come is cut off in the end."""
    give_up = time.monotonic() + WITHIN_SECONDS
    for message in events:
        if wanted(message.event):
            return message.event
        if time.monotonic() > give_up:
            break
    raise AssertionError("what was waited for did not come")


def test_a_line_says_how_it_is_changes_over_and_reloads(tmp_path: Path, bundle: Bundle, address: str) -> None:
    commands = f"ipc://{tmp_path}/commands"
    cameras = {"top": {"kind": "pattern", "rate_fps": 10.0, "draw_size": [300, 230]}}
    file = write_line_with(
        tmp_path, bundle.path, address, cameras, PRODUCTS.format(commands=commands), top='product = "4711"'
    )
    run = CliRunner().invoke
    with (
        Subscriber(address, topics=["verdict", "change"], timeout_s=WITHIN_SECONDS) as events,
        started(HEATLINE, "run", file) as service,
    ):
        until(events, lambda event: isinstance(event, VerdictEvent) and event.verdict != "NO_VERDICT")
        said = run(status, [str(file), "--json", "--timeout", "20"])
        report = json.loads(said.output)
        assert said.exit_code == EXIT_CODES[report["state"]]
        assert report["state"] in ("READY", "DEGRADED"), "a busy machine may not keep up"
        assert report["heartbeat"] > 0
        assert report["status"]["product"] == "4711"

        assert "product 4712 is in force" in run(select, [commands, "4712"]).output
        assert isinstance(until(events, lambda event: isinstance(event, ChangeEvent)), ChangeEvent)
        until(events, lambda event: event.product == "4712")
        for product, reason in (("4713", "unknown_product"), ("9", "unusable")):
            refused = run(select, [commands, product]).exception
            assert isinstance(refused, CommandRefusedError)
            assert refused.reason == reason
        change = until(events, lambda event: isinstance(event, ChangeEvent))
        assert isinstance(change, ChangeEvent)
        assert (change.in_force, change.product) == (False, "4712")

        env = {"MAINPID": str(service.pid)}
        assert "in force is product 4712" in run(reload, [str(file)], env=env).output
        until(events, lambda event: isinstance(event, ChangeEvent) and event.in_force)
        file.write_text("nonsense")
        assert isinstance(run(reload, [str(file)], env=env).exception, ConfigError)
        change = until(events, lambda event: isinstance(event, ChangeEvent))
        assert isinstance(change, ChangeEvent)
        assert (change.change, change.in_force) == ("reload", False)

        os.kill(service.pid, signal.SIGTERM)
        assert service.wait(WITHIN_SECONDS) == 0
    stopped = run(status, [address, "--timeout", "0.05", "--json"])
    assert (stopped.exit_code, json.loads(stopped.output)["reason"]) == (18, "unreachable")
