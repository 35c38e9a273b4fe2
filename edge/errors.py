"""The error family. Each kind has its own exit code; each message says what came, what was expected, what to do.

HeatlineError
├── ConfigError          3   a line configuration that cannot be used
├── BundleError          4   a bundle that is damaged, foreign, too new, signed by nobody who is trusted, or fails its
│                            golden tiles on this machine; a key that cannot be used
├── CameraError          5   a camera that cannot be opened
├── EngineError          6   an inference engine that does not start or does not answer
│   └── PrecisionError       a precision that this processor does not compute in
├── DeliveryError        7   an address that cannot be bound or reached; a state folder or journal that a running
│                            line holds
├── MessageError         8   bytes on the wire that are no message of ours
├── InputError           9   a picture, mask, label, folder or standard output that cannot be used
│   └── GeometryError        a frame or grid size that makes no sense
├── MissingExtraError   10   a command or a camera whose extra or system library is not installed
├── TrainingError       11   a training that cannot start or go on
│   ├── DivergedError        a loss or logits that are no numbers any more
│   └── WeightsError         pretrained weights that were asked for and cannot be had
├── ExportError         12   an exported graph that does not agree with the model it came from
├── DemoError           13   the demo ran and did not reach what it promises
├── BenchError          14   a benchmark that did not run to its end
├── CommandRefusedError 15   a command that the line refuses, with the reason
├── JournalError        19   a journal that cannot be read
├── EventsLostError     20   events that were missed and cannot be had any more
├── AccessError         21   a key that cannot be used or is not allowed
└── Interrupted        130   Ctrl-C, of what can go on

1 is a fault of ours (a bug, with its traceback), 2 a wrong command line.
`heatline status` ends with 16, 17 or 18 for a line that is BUSY, DEGRADED or NOT_READY: what was asked for, no error.
"""

from typing import ClassVar


class HeatlineError(Exception):
    """A mistake that the user can mend: shown as one sentence, without a traceback."""

    exit_code: ClassVar[int] = 1


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


class MessageError(HeatlineError):
    exit_code = 8


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
    """Its `reason` is one word of docs/commands.md, where the line gave one; its detail is the line's own sentence."""

    exit_code = 15

    def __init__(self, reason: str | None, detail: str) -> None:
        word = "" if reason is None else f" ({reason})"
        super().__init__(f"the line refuses{word}: {detail}")
        self.reason = reason


class JournalError(HeatlineError):
    exit_code = 19


class EventsLostError(HeatlineError):
    """Events that a durable consumer did not get, and never will. It may go on after it.

    Args:
        after_seq: the last event before.
        through_seq: the last one that may be missing.
        journal_id: whose count that is.
    """

    exit_code = 20

    def __init__(
        self,
        sentence: str,
        *,
        journal_id: str,
        after_seq: int,
        through_seq: int,
    ) -> None:
        super().__init__(sentence)
        self.journal_id, self.after_seq, self.through_seq = journal_id, after_seq, through_seq


class AccessError(HeatlineError):
    exit_code = 21


class Interrupted(HeatlineError):
    """Ctrl-C; what was done is kept, and the same command goes on."""

    exit_code = 130


def last_line(error: Exception) -> str:
    """What a library's error of many lines comes to: the lines before say where in the library it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
