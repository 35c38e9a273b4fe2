"""`heatline run`."""

from pathlib import Path

import click

from heatline.edge.cli.output import exit_immediately
from heatline.edge.config import load_config
from heatline.edge.service.lifecycle import Service, signal_handlers
from heatline.edge.util.process import require_limits


@click.command(epilog="Example: heatline run /etc/heatline/line1.toml")
@click.argument("line", type=click.Path(path_type=Path))
def run(line: Path) -> None:
    """Run the inspection service that LINE, a TOML file, describes.

    Ends when every camera has sent its last frame. At SIGTERM or Ctrl-C, ends after the frames in flight are published.
    At SIGHUP, reads LINE again; if it cannot be used, nothing changes.
    """
    require_limits()
    service = Service(line, load_config(line))
    with signal_handlers(service):
        service.run()
        if service.leaves_change_running:
            exit_immediately(0)
