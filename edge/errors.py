"""The errors. Each kind has its own exit code. Each message says what came, what was expected, and what to do.

HeatlineError
├── ConfigError          3   a line configuration that cannot be used
├── BundleError          4   a bundle that is damaged, foreign, too new, without a trusted signature, or fails its
│                            golden tiles on this machine; a key that cannot be used
├── CameraError          5   a camera that cannot be opened
├── EngineError          6   an inference engine that does not start or does not answer
│   └── PrecisionError       a precision that this processor does not compute in
├── DeliveryError        7   an address that cannot be bound or reached, or a state folder or journal that another
│                            running line uses
│   └── SupersededError  23  a newer consumer follows under this one's name
├── MessageError         8   bytes on the wire that are not a valid message
│   └── SchemaVersionError   a message of another schema version
├── InputError           9   a picture, mask, label, folder or standard output that cannot be used
│   └── GeometryError        a frame or grid size that makes no sense
├── MissingExtraError   10   a command or a camera whose extra or system library is not installed
├── TrainingError       11   a training that cannot start or continue
│   ├── DivergedError        a loss or logits that are not finite
│   └── WeightsError         pretrained weights that cannot be loaded
├── ExportError         12   an exported graph that does not agree with the model it came from
├── DemoError           13   a demo that ran and missed its goal
├── BenchError          14   a benchmark that did not run to its end
├── CommandRefusedError 15   a command that the line refuses, with the reason
├── JournalError        19   a journal that cannot be read
├── EventsLostError     20   events that were missed and cannot be delivered any more
├── AccessError         21   a key that cannot be used or is not allowed
└── Interrupted        130   Ctrl-C, or SIGTERM, during work that can be continued

1 is a bug of heatline (with its traceback), 2 a wrong command line.
`heatline status` ends with 16, 17 or 18 if a line is BUSY, DEGRADED or NOT_READY: an answer, not an error.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal


class HeatlineError(Exception):
    """A problem that the user can solve: shown as one sentence, without a traceback."""

    exit_code: ClassVar[int] = 1
    further: "Sequence[HeatlineError]" = ()
    """Found at the same time, and shown after this one."""


class ConfigError(HeatlineError):
    exit_code = 3


class BundleError(HeatlineError):
    exit_code = 4


class CameraError(HeatlineError):
    exit_code = 5


class EngineError(HeatlineError):
    exit_code = 6


class PrecisionError(EngineError):
    pass


class DeliveryError(HeatlineError):
    exit_code = 7


class SupersededError(DeliveryError):
    """A newer consumer follows under the name of this one. Following again would end the newer one, and so on."""

    exit_code = 23


class MessageError(HeatlineError):
    exit_code = 8


class SchemaVersionError(MessageError):
    pass


class InputError(HeatlineError):
    exit_code = 9


class GeometryError(InputError):
    pass


class MissingExtraError(HeatlineError):
    exit_code = 10


class TrainingError(HeatlineError):
    exit_code = 11


class DivergedError(TrainingError):
    pass


class WeightsError(TrainingError):
    pass


class ExportError(HeatlineError):
    exit_code = 12


class DemoError(HeatlineError):
    exit_code = 13


class BenchError(HeatlineError):
    exit_code = 14


class CommandRefusedError(HeatlineError):
    """`reason` is one word of docs/commands.md, if the line gave one. The message contains the line's own sentence."""

    exit_code = 15

    def __init__(self, reason: str | None, detail: str) -> None:
        word = "" if reason is None else f" ({reason})"
        super().__init__(f"the line refuses{word}: {detail}")
        self.reason, self.detail = reason, detail


JournalFault = Literal["missing", "foreign", "damaged", "replaced", "full", "hung", "failed"]


class JournalError(HeatlineError):
    """A journal that cannot be used.

    Args:
        kind: `foreign`: it is another line's, or of another version of heatline. `replaced`: the open file is no longer
            the one at its path. `hung`: its disk does not answer; the call may be carried out later, or never.
    """

    exit_code = 19

    def __init__(self, sentence: str, kind: JournalFault = "failed") -> None:
        super().__init__(sentence)
        self.kind = kind


class EventsLostError(HeatlineError):
    """Events that a durable consumer did not get and never will: those of a journal after `after_seq`, at most through
    `through_seq`. The consumer may continue afterwards.
    """

    exit_code = 20

    def __init__(self, sentence: str, *, journal_id: str, after_seq: int, through_seq: int) -> None:
        super().__init__(sentence)
        self.journal_id, self.after_seq, self.through_seq = journal_id, after_seq, through_seq


class AccessError(HeatlineError):
    exit_code = 21


class Interrupted(HeatlineError):
    """Ctrl-C, or SIGTERM. Finished work is kept, and the same command continues it."""

    exit_code = 130


class Faults:
    """Collects errors, so that a user sees all of them at once."""

    def __init__(self) -> None:
        self.found: list[HeatlineError] = []

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Note an error that ends the block, and go on after the block."""
        try:
            yield
        except HeatlineError as error:
            self.found += [error, *error.further]

    def raise_found(self) -> None:
        """Raise the first of the errors, if any was found, with the others."""
        if self.found:
            first, *first.further = self.found
            raise first


def last_line(error: Exception) -> str:
    """Return the last line of a library's error: the lines before it only tell where in the library it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
