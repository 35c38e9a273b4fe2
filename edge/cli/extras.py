"""Commands that need an extra say so in one line where it is missing."""

import importlib.util

from edge.errors import MissingExtraError


def require_extra(extra: str, *modules: str) -> None:
    """See that the modules of an extra are installed, without importing them.

    Raises:
        MissingExtraError: one is not.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"this command needs {', '.join(missing)}, which is not installed; install it with: "
            f"pip install 'heatline[{extra}]'"
        )
