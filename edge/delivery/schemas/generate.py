"""Writes the JSON Schemas of the events from their structs: `make schemas`."""

from pathlib import Path

import msgspec

from edge.delivery.messages import SCHEMA_VERSION, StatusEvent, VerdictEvent

FOLDER = Path(__file__).parent


def schemas() -> dict[str, bytes]:
    """Each schema's file name and text."""
    return {
        f"{name}-v{SCHEMA_VERSION}.json": _text(event)
        for name, event in (("verdict", VerdictEvent), ("status", StatusEvent))
    }


def _text(event: type[msgspec.Struct]) -> bytes:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(event)}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def main() -> None:
    for name, text in schemas().items():
        (FOLDER / name).write_bytes(text)
        print(FOLDER / name)


if __name__ == "__main__":
    main()
