"""What all steps use: the paths on the line PC and on the stick, the line, and a subscriber to its events."""

from pathlib import Path

from machine import Event, Listener, Unit, is_inspected_of, until

STICK, PACKAGE, NEXT_PACKAGE = Path("/stick"), Path("/package"), Path("/next-package")
LINE = Path("/etc/heatline/line1.toml")
RUNTIME = Path("/run/heatline/line1")
CAMERAS = "top", "boards"

line = Unit("heatline@line1")
events = Listener("tcp://127.0.0.1:5556")


def until_it_inspects(mark: int) -> list[Event]:
    """Wait until systemd has started the line; return the first verdict of each camera since a mark."""
    until("the line's start", line.is_active)
    return [events.until(f"a verdict of {camera}", is_inspected_of(camera), mark) for camera in CAMERAS]
