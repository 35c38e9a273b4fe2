"""A whole line that other machines can reach, and the commands that they type: who has a key that is allowed is served,
nobody else is, and all of it changes while the line runs.
"""

import json
import os
import pwd
import re
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.bundle import Bundle
from edge.cli.main import heatline as command
from edge.delivery.security.curve import ClientKeys, read_key_pair
from edge.errors import AccessError
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.lines import running, started, write_line_with
from tests.edge.secured import Port, free_port, until

CAMERAS = {
    "top": {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 10.0},
    "side": {"kind": "pattern", "draw_size": [230, 230], "trigger": "software"},
}
STATES = {0, 16, 17}
"""Exit codes of `heatline status` for a line that answers and inspects; a busy machine may not keep up."""
NOT_LET_IN = 21


@dataclass(frozen=True)
class OpenLine:
    """A line's file, and where its sockets are bound: at every address of this machine."""

    file: Path
    events: Port
    commands: Port
    journal: Port

    @property
    def keys(self) -> Path:
        return self.file.parent / "keys"

    def secure(self) -> None:
        """Have it use keys that lie in a folder of their own."""
        self.file.write_text(f'{self.file.read_text()}\n[security]\nkey = "keys/line.key"\n')
        (self.keys / "allowed").mkdir(parents=True)
        run("keys", "new", self.keys / "line.key")


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle) -> OpenLine:
    ports = [free_port() for _ in range(3)]
    events, commands, journal = (port.bound for port in ports)
    tables = f'[commands]\nbind = "{commands}"\n\n[journal]\nbind = "{journal}"\nfolder = "state"'
    file = write_line_with(tmp_path, bundle.path, events, CAMERAS, tables)
    file.write_text(file.read_text().replace("wait_for_subscriber_s = 60\n", ""))
    return OpenLine(file, *ports)


def run(*arguments: str | Path) -> Result:
    """A command, in this process; an error of its own is raised."""
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class Machine:
    """Another machine as far as the line can tell: it comes from no loopback address, and has a key of its own."""

    def __init__(self, folder: Path, line: OpenLine) -> None:
        self._line, self._key = line, folder / "mes.key"
        run("keys", "new", self._key)
        self.options = ["--key", str(self._key), "--line-key", f"{line.keys / 'line.key'}.pub"]

    def is_let_in(self, *roles: str) -> None:
        as_roles = [word for role in roles for word in ("--role", role)]
        run("keys", "allow", f"{self._key}.pub", *as_roles, "--allowed", self._line.keys / "allowed")

    def is_let_in_no_more(self, *roles: str) -> None:
        as_roles = [word for role in roles for word in ("--role", role)]
        run("keys", "revoke", "mes", *as_roles, "--allowed", self._line.keys / "allowed")

    def asks(self) -> dict[str, list[str]]:
        """What it types, by the role that it needs."""
        events, commands, journal = (
            port.reached for port in (self._line.events, self._line.commands, self._line.journal)
        )
        return {
            "listen": ["watch", events, "--count", "1", "--json"],
            "command": ["trigger", commands, "side", "--part-id", "P-1", "--json"],
            "follow": ["follow", journal, "--name", "mes", "--count", "1"],
        }


@pytest.fixture
def mes(line: OpenLine, tmp_path: Path) -> Machine:
    line.secure()
    return Machine(tmp_path, line)


@pytest.fixture
def own(line: OpenLine, mes: Machine) -> ClientKeys:
    """The line's own key."""
    pair = read_key_pair(line.keys / "line.key")
    return ClientKeys(pair, pair.public)


def answers(*arguments: str) -> Iterator[dict[str, object]]:
    """What the installed command prints: an object a line."""
    result = heatline(*arguments)
    assert result.returncode == 0, result.stderr
    return map(json.loads, result.stdout.splitlines())


def is_refused(*arguments: str) -> bool:
    """Whether the line does not let a command in, and says so of its key."""
    try:
        run(*arguments, "--timeout", "0.3")
    except AccessError as error:
        return "your key is not allowed there" in str(error)
    return False


@pytest.mark.long
def test_another_machine_is_served_by_its_key_while_it_is_allowed_and_only_then(
    line: OpenLine, mes: Machine, own: ClientKeys
) -> None:
    asks = mes.asks()
    with running(line.file, line.events.reached, keys=own) as service:
        service.until_inspected()
        assert run("status", line.file).exit_code in STATES, "on the line's own machine nothing more is needed"
        for asked in asks.values():
            with pytest.raises(AccessError, match="hung up: it takes keys"):
                run(*asked, "--timeout", "0.3")
        mes.is_let_in("listen")
        until(lambda: run("status", line.events.reached, *mes.options).exit_code in STATES)
        assert "verdict" in {event["type"] for event in answers(*asks["listen"], *mes.options)}
        assert is_refused(*asks["command"], *mes.options)
        mes.is_let_in("command", "follow")
        (triggered,) = answers(*asks["command"], *mes.options)
        assert (triggered["type"], triggered["part_id"]) == ("triggered", "P-1")
        (first,) = answers(*asks["follow"], *mes.options)
        assert first["seq"] == 1
        mes.is_let_in_no_more()
        until(lambda: is_refused(*asks["listen"], *mes.options))
        service.until_inspected()
        heard = service.end()
    assert {"events.auth", "commands.auth"} <= heard.last.refused.keys()
    assert set(heard.last.refused) <= {
        f"{socket}.{reason}"
        for socket in ("events", "commands", "journal")
        for reason in ("auth", "handshake", "protocol", "revoked")
    }


def test_a_line_without_keys_says_what_to_type_and_typed_just_so_it_runs(line: OpenLine, tmp_path: Path) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name

    def typed_here(sentence: str) -> str:
        """On this machine, which need have no service installed."""
        return sentence.replace("/etc/heatline/keys", str(line.keys)).replace("--owner heatline", f"--owner {me}")

    refused = heatline("run", line.file)
    assert refused.returncode == 3
    assert complaint(heatline("check", line.file)) == complaint(refused)
    found = re.search(r"make one with heatline (.*?) and set (key = .*?) under (\[security\])", complaint(refused))
    assert found is not None
    words, key, table = map(typed_here, found.groups())
    line.keys.mkdir()
    run(*shlex.split(words))
    line.file.write_text(f"{line.file.read_text()}\n{table}\n{key}\n")

    nobody = heatline("check", line.file)
    assert nobody.returncode == NOT_LET_IN
    found = re.search(r"let one in with heatline (.*)", complaint(nobody))
    assert found is not None
    run("keys", "new", tmp_path / "CLIENT.key")
    run(*shlex.split(found[1].replace("CLIENT.key.pub", f"{tmp_path}/CLIENT.key.pub")))
    options = ["--key", f"{tmp_path}/CLIENT.key", "--line-key", f"{line.keys}/line.key.pub"]
    with started(HEATLINE, "run", line.file) as service:
        until(lambda: run("status", line.events.reached, *options).exit_code in STATES)
        service.send_signal(signal.SIGTERM)
        assert service.wait(WITHIN_SECONDS) == 0
