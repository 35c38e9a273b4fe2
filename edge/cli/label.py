"""`heatline label`: a page that labels the pictures of a folder."""

from pathlib import Path

import click

from heatline.edge.errors import InputError
from heatline.edge.util.extras import require_extra


@click.command(epilog="Example: heatline label pictures")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--listen", default="127.0.0.1:8422", show_default=True, help="Address of the page, HOST:PORT; port 0: any free."
)
@click.option("--token-file", type=click.Path(path_type=Path), help="File with the token that the page asks for.")
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    help="Run whose model doubts the labels. Default: the newest in runs/ that was trained on FOLDER.",
)
def label(folder: Path, listen: str, token_file: Path | None, run: Path | None) -> None:
    """Serve a page that labels the pictures in FOLDER, until Ctrl-C.

    A label is the subfolder that a picture lies in: good/, defective/ or unlabelled/, as `heatline train FOLDER` reads
    it. Boxes and brush strokes over defects are stored in labelme/.
    """
    require_extra("view")
    from heatline.edge.labels.folder import LabelFolder
    from heatline.edge.labels.training import read_scores
    from heatline.edge.monitor.label_page import serve_labels

    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a folder of pictures")
    if run is not None:
        read_scores(run)
    serve_labels(LabelFolder(folder), listen, token_file, run, lambda url: click.echo(f"open {url} (Ctrl-C ends it)"))
