"""heatline for notebooks and other programs: inspect pictures, receive a line's events, train and export.

    import heatline

    with heatline.open_bundle("boards.bundle") as inspector:
        result = inspector.inspect("board.png")
        print(result.verdict, result.score, result.regions)

docs/python.md has an example of each function. All errors are subclasses of `HeatlineError`, one sentence each.
The names are those of `heatline.api`. Importing heatline loads neither NumPy, OpenCV nor OpenVINO; `open_bundle` does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heatline.api import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        # `import heatline.edge.wire` must load nothing else, so the interface loads when it is first used.
        from importlib import import_module

        return getattr(import_module("heatline.api"), name)

    def __dir__() -> list[str]:
        from heatline.api import __all__

        return sorted({*globals(), *__all__})
