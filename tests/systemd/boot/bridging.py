"""The bridges to the plant, as services beside the line."""

import json
import os
from pathlib import Path
from typing import Any

from common import events, line, until_it_inspects
from machine import CURRENT, Unit, run_checked, until

BRIDGES = "mqtt", "opcua", "modbus"
MODBUS_PORT, OPCUA_PORT = "1502", "4840"


def bridges() -> dict[str, Any]:
    """Start all bridges, ask those that serve for a result, and kill the line: no bridge ends."""
    units = {name: Unit(f"heatline-{name}@line1") for name in BRIDGES}
    started = {name: unit.systemctl("start") for name, unit in units.items()}
    python = Path(os.path.realpath(CURRENT)) / "bin" / "python"
    seen = json.loads(run_checked(python, "/boot-test/plant.py", MODBUS_PORT, OPCUA_PORT))
    pids = {name: unit.pid() for name, unit in units.items()}
    users = {name: Path(f"/proc/{pid}").stat().st_uid for name, pid in pids.items()}
    until("a broker that is away", lambda: "1883" in units["mqtt"].show()["StatusText"])
    line.systemctl("restart")
    until_it_inspects(events.mark())
    shown = {name: unit.show() for name, unit in units.items()}
    stopped = {name: unit.systemctl("stop")["exit"] for name, unit in units.items()}
    return {
        "summary": f"Modbus {seen['modbus']}, OPC UA {seen['opcua']}",
        "started": started,
        "seen": seen,
        "same": {name: shown[name]["MainPID"] == str(pid) for name, pid in pids.items()},
        "users": users,
        "shown": shown,
        "stopped": stopped,
    }
