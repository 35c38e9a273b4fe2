"""Values as registers of 16 bit, and back."""

from collections.abc import Sequence

from heatline.edge.bridge.modbus.registers import Field
from heatline.edge.config.bridges import WordOrder

Value = int | str | bytes


def encode(field: Field, value: Value, order: WordOrder) -> list[int]:
    """Return a value as registers. Integers are modulo what the field can hold; text and bytes must fit.

    >>> [hex(word) for word in encode(Field("n", "UDINT", ""), 0x12345678, "high_first")]
    ['0x1234', '0x5678']
    >>> [hex(word) for word in encode(Field("id", "TEXT", "", 4), "P-1", "high_first")]
    ['0x502d', '0x3100']
    """
    size = 2 * field.registers
    if isinstance(value, int):
        data = (value % (1 << 8 * size)).to_bytes(size, "big")
    else:
        data = value.encode("ascii") if isinstance(value, str) else value
        assert len(data) <= size, f"{field.name} takes {size} bytes"
        data = data.ljust(size, b"\0")
    words = [data[at] << 8 | data[at + 1] for at in range(0, size, 2)]
    return words[::-1] if isinstance(value, int) and order == "low_first" else words


def decode(field: Field, words: Sequence[int], order: WordOrder) -> Value:
    """Return the value in registers: TEXT as Latin-1, with all of its bytes."""
    if field.kind in ("TEXT", "BYTES"):
        data = b"".join(word.to_bytes(2, "big") for word in words)
        return data.decode("latin-1") if field.kind == "TEXT" else data
    value = 0
    for word in words if order == "high_first" else reversed(words):
        value = value << 16 | word
    return value
