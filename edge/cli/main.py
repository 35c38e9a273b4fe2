"""The `heatline` command: its subcommands and exit codes."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TextIO

import click

from heatline.edge import __version__
from heatline.edge.cli.output import (
    CommandGroup,
    ReaderHasGoneError,
    exit_immediately,
    replace_standard_streams,
    visible,
)
from heatline.edge.errors import HeatlineError
from heatline.edge.util.extras import extra_of

INTERRUPTED = 130
EDGE, TRAIN, EXPORT = "heatline.edge.cli", "heatline.train.commands", "heatline.export"
COMMANDS = {
    **dict.fromkeys(("run", "status", "reload", "select", "trigger"), f"{EDGE}.line"),
    "inspect": f"{EDGE}.inspect",
    "archive": "heatline.archive.command",
    **dict.fromkeys(("watch", "view", "label"), f"{EDGE}.watch"),
    **{name: f"{EDGE}.{name}" for name in ("new", "cameras", "bundle", "calibrate", "keys", "check", "shadow")},
    **{name: f"{EDGE}.{name}" for name in ("follow", "journal", "report", "evidence", "bridge")},
    **{name: f"{TRAIN}.{name}" for name in ("data", "train", "search", "study", "evaluate", "models")},
    "export": f"{EXPORT}.command",
    "retrain": f"{EXPORT}.retrain.command",
    "bench": "heatline.bench.command",
}
"""The module of each command. It is imported only when it is used, so that a line starts faster."""
SECTIONS = {
    "Train a model": ["label", "data", "train", "search", "study", "evaluate", "models", "export", "retrain"],
    "Set up a line": ["new", "cameras", "bundle", "inspect", "archive", "calibrate", "keys", "check"],
    "Run a line": [
        *("run", "status", "view", "watch", "follow", "trigger", "select", "reload", "shadow"),
        *("journal", "report", "evidence", "bridge"),
    ],
    "Measure": ["bench"],
}
"""Commands by heading of the help."""


class HeatlineGroup(CommandGroup):
    """The commands of `COMMANDS`."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError as error:
            raise ReaderHasGoneError from error

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            self.commands = dict.fromkeys(COMMANDS, self)  # click suggests similar names of these
            return None
        command = getattr(import_module(COMMANDS[name]), name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=HeatlineGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: heatline check line.toml && heatline run line.toml",
)
@click.version_option(__version__, prog_name="heatline")
def heatline() -> None:
    """Finds defects on a production line and shows where they are."""


def main() -> None:
    """Run the command line in this process; exit codes are listed in `heatline.edge.errors`."""
    log_to(sys.stderr)
    replace_standard_streams()
    code = run()
    if (code and (_engine_was_loaded() or not _takes_all(sys.stdout))) or _engine_never_answered():
        exit_immediately(code)
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command to its end and return its exit code. Print a user's mistake as one sentence on standard error.

    Args:
        arguments: the command line; default: that of this process.
    """
    try:
        try:
            return int(heatline(arguments, prog_name="heatline", standalone_mode=False) or 0)
        except ModuleNotFoundError as error:
            raise extra_of(error) from error
    except HeatlineError as error:
        for each in (error, *error.further):
            click.echo(f"heatline: {visible(' '.join(str(each).splitlines()))}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("heatline: interrupted", err=True)
        return INTERRUPTED
    except ReaderHasGoneError:
        # The final flush must not fail on the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def log_to(stream: TextIO) -> logging.Handler:
    """Write heatline's log to a stream, and warnings of other libraries."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("heatline").setLevel(logging.INFO)
    return handler


def _takes_all(stream: TextIO) -> bool:
    """Return whether a stream can be flushed. If not, an ordinary exit of Python would report it again."""
    try:
        stream.flush()
    except (OSError, HeatlineError, ReaderHasGoneError):
        return False
    return True


def _engine_was_loaded() -> bool:
    """Return whether an engine may still be working. Otherwise an ordinary exit of Python removes temporary folders."""
    devices = sys.modules.get("heatline.edge.inference.devices")
    return "onnxruntime" in sys.modules or (devices is not None and devices.shared_core.cache_info().currsize > 0)


def _engine_never_answered() -> bool:
    """Return whether an inference was abandoned, for which an ordinary exit of Python would wait."""
    engine = sys.modules.get("heatline.edge.inference.engine")
    return engine is not None and bool(engine.ABANDONED_REQUESTS)


if __name__ == "__main__":
    main()
