"""`heatline run`."""

from pathlib import Path

import click

from edge.cli.output import leave_at_once
from edge.config import load_config
from edge.service.lifecycle import Service, signal_handlers


@click.command(epilog="Example: heatline run /etc/heatline/line1.toml")
@click.argument("line", type=click.Path(path_type=Path))
def run(line: Path) -> None:
    """Run the inspection service that LINE, a TOML file, describes.

    Ends when every camera has shown its last frame, or at SIGTERM or Ctrl-C once the frames in flight are published.
    SIGHUP has it read LINE again: what cannot be put in force is refused, and all stays as it was.
    """
    service = Service(line, load_config(line))
    with signal_handlers(service):
        service.run()
        if service.leaves_change_running:
            leave_at_once(0)
