"""The commands that people type for a line that runs: what they print is what its events say, and another machine needs
a key that is allowed.
"""

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heatline.edge.bundle import Bundle
from heatline.edge.cli.line import EXIT_CODES
from heatline.edge.delivery.auth import ClientKeys, read_key_pair
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.wire.events import ChangeEvent, Event, Message, VerdictEvent
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.lines import running, started, write_line_with
from tests.edge.secured import free_port, until

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
STATES = {0, 16, 17}
"""Exit codes of `heatline status` for a line that answers and inspects; a busy machine may not keep up."""
REFUSED, ACCESS_DENIED = 15, 21


def next_event(events: Subscriber, wanted: Callable[[Any], bool]) -> Event:
    """Return the next matching event."""
    give_up = time.monotonic() + WITHIN_SECONDS
    for message in events:
        if isinstance(message, Message) and wanted(message.event):
            return message.event
        assert time.monotonic() < give_up, "what was waited for did not come"
    raise AssertionError("nothing came any more")


def next_change(events: Subscriber) -> ChangeEvent:
    change = next_event(events, lambda event: isinstance(event, ChangeEvent))
    assert isinstance(change, ChangeEvent)
    return change


def typed(*arguments: str | Path) -> str:
    """Return what a successful command prints."""
    result = heatline(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_line_reports_its_status_changes_product_and_reloads(tmp_path: Path, bundle: Bundle, address: str) -> None:
    commands = f"ipc://{tmp_path}/commands"
    cameras = {"top": {"kind": "pattern", "rate_fps": 10.0, "draw_size": [300, 230]}}
    file = write_line_with(
        tmp_path, bundle.path, address, cameras, PRODUCTS.format(commands=commands), top='product = "4711"'
    )
    with (
        Subscriber(address, topics=["verdict", "change"], timeout_s=WITHIN_SECONDS) as events,
        started(HEATLINE, "run", file) as service,
    ):
        next_event(events, lambda event: isinstance(event, VerdictEvent) and event.verdict != "NO_VERDICT")
        result = heatline("status", file, "--json", "--timeout", "20")
        report = json.loads(result.stdout)
        assert result.returncode == EXIT_CODES[report["state"]]
        assert report["state"] in ("READY", "DEGRADED"), "a busy machine may not keep up"
        assert report["heartbeat"] > 0
        assert report["status"]["product"] == "4711"

        assert "product 4712 is active" in typed("select", commands, "4712")
        assert next_change(events).applied
        next_event(events, lambda event: event.product == "4712")
        for product, reason in (("4713", "unknown_product"), ("9", "unusable")):
            refused = heatline("select", commands, product)
            assert refused.returncode == REFUSED
            assert f"the line refuses ({reason})" in complaint(refused)
        change = next_change(events)
        assert (change.applied, change.product) == (False, "4712")

        assert ": product 4712, bundle " in heatline("reload", file).stdout
        next_event(events, lambda event: isinstance(event, ChangeEvent) and event.applied)
        file.write_text("nonsense")
        assert heatline("reload", file).returncode == 3
        os.kill(service.pid, signal.SIGHUP)
        change = next_change(events)
        assert (change.change, change.applied) == ("reload", False)

        os.kill(service.pid, signal.SIGTERM)
        assert service.wait(WITHIN_SECONDS) == 0
    stopped = heatline("status", address, "--timeout", "0.05", "--json")
    assert (stopped.returncode, json.loads(stopped.stdout)["reason"]) == (18, "unreachable")


def test_a_reachable_line_needs_a_key_and_serves_allowed_clients(tmp_path: Path, bundle: Bundle) -> None:
    ports = [free_port() for _ in range(3)]
    events, commands, journal = (port.reached for port in ports)
    cameras = {
        "top": {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 10.0},
        "side": {"kind": "pattern", "draw_size": [230, 230], "trigger": "software"},
    }
    tables = f'[commands]\nbind = "{ports[1].bound}"\n\n[journal]\nbind = "{ports[2].bound}"\nfolder = "state"'
    file = write_line_with(tmp_path, bundle.path, ports[0].bound, cameras, tables)
    keys, mes = tmp_path / "keys", tmp_path / "mes.key"

    def read_advice(sentence: str, pattern: str) -> list[str]:
        """Return the parts of an advised command, with the paths of this machine."""
        sentence = sentence.replace("/etc/heatline/keys", str(keys))
        found = re.search(pattern, sentence.replace("CLIENT.key.pub", f"{mes}.pub"))
        assert found is not None, sentence
        return list(found.groups())

    # Without a key or an allowed client, the line does not run, and its message says what to do.
    refused = heatline("run", file)
    assert refused.returncode == 3
    assert complaint(heatline("check", file)) == complaint(refused)
    command_line, key, table = read_advice(
        complaint(refused), r"make one with heatline (.*?), give it .*? and set (key = .*?) under (\[security\])"
    )
    keys.mkdir()
    typed(*shlex.split(command_line))
    file.write_text(f"{file.read_text()}\n{table}\n{key}\n".replace("wait_for_subscriber_s = 60\n", ""))
    nobody = heatline("check", file)
    assert nobody.returncode == ACCESS_DENIED
    (command_line,) = read_advice(complaint(nobody), "allow one with heatline (.*)")
    typed("keys", "new", mes)
    typed(*shlex.split(command_line))

    own = read_key_pair(keys / "line.key")
    options = ["--key", mes, "--line-key", keys / "line.key.pub"]
    listen = ["watch", events, "--count", "1", "--json"]
    trigger = ["trigger", commands, "side", "--part-id", "P-1", "--json"]
    follow = ["follow", journal, "--name", "mes", "--count", "1"]

    def refusal(*arguments: str | Path) -> str:
        refused = heatline(*arguments, "--timeout", "0.3")
        return complaint(refused) if refused.returncode == ACCESS_DENIED else ""

    def served(*arguments: str | Path) -> dict[str, object]:
        """Return what a command prints once it has access: the line reads its lists again after a moment."""
        printed: list[str] = []

        def is_served() -> bool:
            result = heatline(*arguments, *options)
            printed.append(result.stdout)
            return result.returncode == 0

        until(is_served)
        found: dict[str, object] = json.loads(printed[-1])
        return found

    with running(file, events, keys=ClientKeys(own, own.public)) as service:
        service.until_inspected()
        assert heatline("status", file).returncode in STATES, "the line's own machine needs no other key"
        for command in (listen, trigger, follow):
            assert "closed the connection: it requires keys" in refusal(*command)
        assert heatline("status", events, *options).returncode in STATES
        assert served(*listen)["type"] in ("verdict", "status", "alarm")
        assert "your key is not allowed there" in refusal(*trigger, *options)
        allow = ["keys", "allow", f"{mes}.pub", "--allowed", keys / "allowed"]
        typed(*allow, "--role", "command", "--role", "follow")
        triggered = served(*trigger)
        assert (triggered["type"], triggered["part_id"]) == ("triggered", "P-1")
        assert served(*follow)["seq"] == 1
        typed("keys", "revoke", "mes", "--allowed", keys / "allowed")
        until(lambda: "your key is not allowed there" in refusal(*listen, *options))
        service.until_inspected()
        received = service.end()
    assert {"events.auth", "commands.auth"} <= received.last.refused.keys()
