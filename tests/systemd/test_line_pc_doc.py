"""docs/line-pc.md agrees with the states of a line and with the unit."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE_PC = (ROOT / "docs" / "line-pc.md").read_text()


def test_each_reason_why_a_line_is_not_ready_is_explained() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text()
    exist = set(re.findall(r"^\| `(\w+)` \| `([A-Z_]+)` \|", protocol, flags=re.MULTILINE))
    explained = re.findall(r"^\| `([A-Z_]+)`, `(\w+)` \| (\d+) \|", LINE_PC, flags=re.MULTILINE)
    from_the_command = {("unreachable", "NOT_READY")}  # no status came from the line
    assert {(reason, state) for state, reason, _ in explained} == exist | from_the_command
    codes = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", protocol, flags=re.MULTILINE))
    assert all(code == codes[state] for state, _, code in explained)


def test_exit_codes_without_a_restart_are_those_of_the_unit() -> None:
    unit = (ROOT / "systemd" / "heatline@.service").read_text()
    prevented = re.findall(r"(?m)^RestartPreventExitStatus=(.*)$", unit)[0].split()
    rows = re.findall(r"^\| (\d+)[^|]* \|[^|]*\| ([^|]*) \|", LINE_PC, flags=re.MULTILINE)
    assert [code for code, does in rows if does.startswith("Leaves it failed")] == prevented
