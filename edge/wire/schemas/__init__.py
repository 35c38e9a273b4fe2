"""`make schemas`: writes the JSON Schemas of events and requests from their structs."""

from inspect import cleandoc
from pathlib import Path
from typing import Any, get_args

import msgspec

from heatline.edge.wire import commands, events, following, requests

FOLDER = Path(__file__).parent


def schemas() -> dict[str, bytes]:
    """Return the text of each schema by file name."""
    messages: list[tuple[str, int, Any]] = [
        *((str(each.__struct_config__.tag), events.SCHEMA_VERSION, each) for each in get_args(events.Event)),
        ("command-request", requests.SCHEMA_VERSION, commands.Request),
        ("command-reply", requests.SCHEMA_VERSION, commands.Reply),
        ("follow-request", requests.SCHEMA_VERSION, following.Request),
        ("follow-reply", requests.SCHEMA_VERSION, following.Reply),
    ]
    return {f"{name}-v{version}.json": _text(message) for name, version, message in messages}


def _text(message: Any) -> bytes:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(message)}
    for definition in schema["$defs"].values():
        if "description" in definition:  # msgspec 0.22 leaves the docstring's indentation in it
            definition["description"] = cleandoc(definition["description"])
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def main() -> None:
    for name, text in schemas().items():
        (FOLDER / name).write_bytes(text)
        print(FOLDER / name)
