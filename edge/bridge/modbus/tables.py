"""The register map for people and PLC programs: `python -m heatline.edge.bridge.modbus.tables docs/plant-modbus.md`."""

import csv
import io
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from heatline.edge.bridge.modbus.codes import HANDSHAKE_REASONS, OTHER, RESULT_REASONS, Outcome
from heatline.edge.bridge.modbus.registers import (
    CAMERA_STRIDE,
    COMMANDS,
    FIRST_CAMERA_ADDRESS,
    LINE,
    MAILBOX,
    RESPONSE,
    Block,
    Field,
    camera_block,
    register_map,
)
from heatline.edge.bridge.modbus.results import IdMap

COLUMNS = "Name", "Address", "Registers", "Type", "Access", "Comment"
_PLAIN = str.maketrans({"`": None, ";": ",", '"': "'"})
"""No cell needs quotes, which not every PLC tool reads."""
_LINK = re.compile(r" \(\[[^\]]*\]\([^)]*\)\)")
_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def symbol_file(places: IdMap) -> str:
    """Return all registers of a line as CSV, with semicolons, in ASCII: for import in a PLC program."""
    out = io.StringIO()
    rows = csv.writer(out, delimiter=";", lineterminator="\r\n")
    rows.writerow(COLUMNS)
    names = {camera_block(place).prefix: name for place, name in enumerate(places.cameras, 1)}
    for block in register_map(len(places.cameras)):
        camera = names.get(block.prefix)
        for field in block.fields.values():
            meaning = _LINK.sub("", field.meaning if camera is None else f"Camera {camera}: {field.meaning}")
            comment = meaning.translate(_PLAIN).encode("ascii", "backslashreplace").decode()
            access = "read/write" if block.is_written else "read"
            name, address = block.name_of(field.name), block.addresses[field.name]
            rows.writerow([name, address, field.registers, type_of(field), access, comment])
    return out.getvalue()


def type_of(field: Field) -> str:
    """Return the type of a field in IEC 61131-3."""
    match field.kind:
        case "TEXT":
            return f"STRING[{field.bytes}]"
        case "BYTES":
            return f"ARRAY[0..{field.registers - 1}] OF WORD"
    return field.kind


def generated_tables() -> Mapping[str, str]:
    """Return each table of the document by its name."""
    blocks = {"line": LINE, "result": MAILBOX, "plc": COMMANDS, "response": RESPONSE}
    return {
        **{name: _block_table(block, 0) for name, block in blocks.items()},
        "camera": _block_table(camera_block(1), FIRST_CAMERA_ADDRESS),
        "states": _code_table("reason", HANDSHAKE_REASONS),
        "reasons": _code_table("reason", RESULT_REASONS),
        "outcomes": _outcome_table(),
        "stride": (
            f"The block of camera *n* begins at {FIRST_CAMERA_ADDRESS} + {CAMERA_STRIDE} · (*n* - 1); "
            "its names have *n* in place of 1.\n"
        ),
    }


def with_tables(document: str) -> str:
    """Return a document with its generated tables as they must be."""
    tables = generated_tables()
    return _GENERATED.sub(lambda found: f"{found[1]}{tables[found[2]]}{found[3]}", document)


def _block_table(block: Block, offset: int) -> str:
    address = "address" if offset == 0 else "offset"
    rows = [f"| {address} | name | type | meaning |", "|---|---|---|---|"]
    for name, field in block.fields.items():
        at = block.addresses[name] - offset
        rows.append(f"| {at} | `{block.name_of(name)}` | {type_of(field)} | {field.meaning} |")
    return "\n".join(rows) + "\n"


def _code_table(heading: str, codes: Mapping[str, int]) -> str:
    return _rows(heading, [*((number, f"`{word}`") for word, number in codes.items()), (OTHER, "another one")])


def _outcome_table() -> str:
    return _rows("outcome", [(outcome.value, f"`{outcome.name}`") for outcome in Outcome])


def _rows(heading: str, rows: Iterable[tuple[int, str]]) -> str:
    return "".join(f"| {first} | {second} |\n" for first, second in [("code", heading), ("---", "---"), *rows])


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
