"""The registers as they are now."""

from collections.abc import Callable, Mapping, Sequence

from heatline.edge.bridge.modbus.encoding import Value, decode, encode
from heatline.edge.bridge.modbus.registers import BEGIN, END, Block
from heatline.edge.config.bridges import WordOrder


class RegisterBank:
    """Holds all registers. Only the thread of the server uses it, so that no request sees half a change.

    Args:
        order: the order of the words of integers of more than 16 bit.
    """

    def __init__(self, blocks: Sequence[Block], order: WordOrder) -> None:
        self._order: WordOrder = order
        self._words: list[int | None] = [None] * max(block.end for block in blocks)
        self._written: set[int] = set()
        """Addresses that a client may write."""
        self._listeners: list[Callable[[], None]] = []
        for block in blocks:
            self._words[block.address : block.end] = [0] * (block.end - block.address)
            if block.is_written:
                self._written.update(range(block.address, block.end))

    def on_write(self, listener: Callable[[], None]) -> None:
        """Call a function after each request that wrote registers."""
        self._listeners.append(listener)

    def read(self, address: int, count: int) -> list[int] | None:
        """Return registers for a client; None: one of them does not exist."""
        words = [word for word in self._words[address : address + count] if word is not None]
        return words if len(words) == count else None

    def write(self, address: int, words: Sequence[int]) -> bool:
        """Write registers for a client, all or none; return whether all of them may be written."""
        if not self._written.issuperset(range(address, address + len(words))):
            return False
        self._words[address : address + len(words)] = words
        for listener in self._listeners:
            listener()
        return True

    def value(self, block: Block, name: str) -> Value:
        """Return the value of a field."""
        field, address = block.fields[name], block.addresses[name]
        words = [word for word in self._words[address : address + field.registers] if word is not None]
        return decode(field, words, self._order)

    def number(self, block: Block, name: str) -> int:
        """Return the value of a field that is an integer."""
        value = self.value(block, name)
        assert isinstance(value, int)
        return value

    def put(self, block: Block, values: Mapping[str, Value]) -> None:
        """Set fields of a block that the bridge writes, at once. If anything changes, so does the sequence number."""
        before = self._words[block.address : block.end]
        for name, value in values.items():
            field, address = block.fields[name], block.addresses[name]
            self._words[address : address + field.registers] = encode(field, value, self._order)
        if self._words[block.address : block.end] != before:
            sequence = self.number(block, BEGIN) % 65535 + 1  # 0 stays: never filled
            self._words[block.addresses[BEGIN]] = self._words[block.addresses[END]] = sequence
