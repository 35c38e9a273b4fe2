"""`heatline view`."""

import click


@click.command(epilog="Example: heatline view line1")
@click.argument("line")
@click.option(
    "--listen", help="Address of the page, HOST:PORT; port 0: any free one. Default: web.listen of the line's file."
)
def view(line: str, listen: str | None) -> None:
    """Serve a page that shows LINE at work, until Ctrl-C.

    The page shows pictures, verdicts, and why. The line need not run: then the page shows the last verdicts of its
    journal, with their pictures in its evidence store. LINE is a line's name or its TOML file, on this PC.
    """
    from heatline.edge.monitor.sidecar import serve_page

    serve_page(line, listen, lambda url: click.echo(f"open {url} (Ctrl-C ends the page)"))
