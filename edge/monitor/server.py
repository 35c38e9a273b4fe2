"""The program of a line's page: `python -m heatline.edge.monitor.server LINE [--listen HOST:PORT]`.

LINE is a line's name or its file. The line may start this program and ends it; it may be killed at any moment.
"""

import argparse
import logging
import sys
from collections.abc import Callable

from heatline.edge.config import WebConfig
from heatline.edge.errors import HeatlineError
from heatline.edge.util.extras import require_extra

logger = logging.getLogger("heatline.edge.monitor")


def serve_page(line: str, listen: str | None, announce: Callable[[str], None]) -> None:
    """Serve the page of a line until SIGTERM or Ctrl-C.

    Args:
        listen: `HOST:PORT`; None: as the line's file says.
        announce: is given the page's address once it can be opened.
    Raises:
        MissingExtraError: the extra `view` is not installed.
        HeatlineError: the line's file cannot be used, or the page cannot listen there, or would not be protected.
    """
    require_extra("view")
    from heatline.edge.monitor.page import serve

    serve(line, listen, announce)


def check_page(web: WebConfig) -> None:
    """Check that a page can be served as its table says.

    Raises:
        MissingExtraError: the extra `view` is not installed.
        HeatlineError: the page cannot listen there, or a file that protects it cannot be used.
    """
    require_extra("view")
    from heatline.edge.monitor.page import check

    check(web)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m heatline.edge.monitor.server")
    parser.add_argument("line")
    parser.add_argument("--listen")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("heatline").setLevel(logging.INFO)
    try:
        serve_page(arguments.line, arguments.listen, lambda url: logger.info("the page of the line is %s", url))
    except HeatlineError as error:
        logger.error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
