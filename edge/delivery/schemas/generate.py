"""Writes the JSON Schemas of events and commands from their structs: `make schemas`."""

from pathlib import Path
from typing import Any

import msgspec

from edge.delivery import commands
from edge.delivery.messages import SCHEMA_VERSION, AlarmEvent, ChangeEvent, StatusEvent, VerdictEvent

FOLDER = Path(__file__).parent


def schemas() -> dict[str, bytes]:
    """Each schema's file name and text."""
    messages: list[tuple[str, int, Any]] = [
        ("verdict", SCHEMA_VERSION, VerdictEvent),
        ("status", SCHEMA_VERSION, StatusEvent),
        ("alarm", SCHEMA_VERSION, AlarmEvent),
        ("change", SCHEMA_VERSION, ChangeEvent),
        ("command-request", commands.SCHEMA_VERSION, commands.Request),
        ("command-reply", commands.SCHEMA_VERSION, commands.Reply),
    ]
    return {f"{name}-v{version}.json": _text(message) for name, version, message in messages}


def _text(message: Any) -> bytes:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(message)}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def main() -> None:
    for name, text in schemas().items():
        (FOLDER / name).write_bytes(text)
        print(FOLDER / name)


if __name__ == "__main__":
    main()
