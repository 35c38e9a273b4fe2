"""docs/line-pc.md is held to what a line can say and to the unit."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE_PC = (ROOT / "docs" / "line-pc.md").read_text()


def test_it_says_what_to_do_for_each_reason_that_a_line_is_not_ready_for() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text()
    exist = set(re.findall(r"^\| `(\w+)` \| `([A-Z_]+)` \|", protocol, flags=re.MULTILINE))
    told = re.findall(r"^\| `([A-Z_]+)`, `(\w+)` \| (\d+) \|", LINE_PC, flags=re.MULTILINE)
    # Of a line that says nothing, or nothing of this, only the command tells.
    ours = {("unreachable", "NOT_READY"), ("unknown", "NOT_READY")}
    assert {(reason, state) for state, reason, _ in told} == exist | ours
    codes = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", protocol, flags=re.MULTILINE))
    assert all(code == codes[state] for state, _, code in told)


def test_it_says_which_exit_codes_systemd_does_not_try_again_after() -> None:
    unit = (ROOT / "systemd" / "heatline@.service").read_text()
    prevented = re.findall(r"(?m)^RestartPreventExitStatus=(.*)$", unit)[0].split()
    rows = re.findall(r"^\| (\d+)[^|]* \|[^|]*\| ([^|]*) \|", LINE_PC, flags=re.MULTILINE)
    assert [code for code, does in rows if does.startswith("Leaves it failed")] == prevented
