"""heatline for notebooks and other programs: inspect pictures, receive a line's events, train and export.

    import heatline

    with heatline.open_bundle("boards.bundle") as inspector:
        result = inspector.inspect("board.png")
        print(result.verdict, result.score, result.regions)

docs/python.md has an example of each function. All errors are subclasses of `HeatlineError`, one sentence each.
Importing heatline loads neither NumPy, OpenCV nor OpenVINO; `open_bundle` does.
"""

from typing import TYPE_CHECKING, Any

from edge import __version__
from edge.delivery.client import Follower, Gap, LineLost, NewBoot, Subscriber
from edge.errors import (
    AccessError,
    BundleError,
    CommandRefusedError,
    ConfigError,
    DeliveryError,
    EngineError,
    EventsLostError,
    ExportError,
    HeatlineError,
    InputError,
    Interrupted,
    MessageError,
    MissingExtraError,
    SupersededError,
    TrainingError,
)
from edge.wire.events import (
    AlarmEvent,
    ChangeEvent,
    DriftEvent,
    JournalEvent,
    Message,
    Region,
    ReviewEvent,
    StatusEvent,
    VerdictEvent,
)
from edge.wire.following import Delivered
from heatline.bundles import open_bundle
from heatline.lines import follow, status, subscribe, trigger
from heatline.training import export, train

if TYPE_CHECKING:
    from edge.offline import BundleInspector, InspectionResult

__all__ = [
    "AccessError",
    "AlarmEvent",
    "BundleError",
    "BundleInspector",
    "ChangeEvent",
    "CommandRefusedError",
    "ConfigError",
    "Delivered",
    "DeliveryError",
    "DriftEvent",
    "EngineError",
    "EventsLostError",
    "ExportError",
    "Follower",
    "Gap",
    "HeatlineError",
    "InputError",
    "InspectionResult",
    "Interrupted",
    "JournalEvent",
    "LineLost",
    "Message",
    "MessageError",
    "MissingExtraError",
    "NewBoot",
    "Region",
    "ReviewEvent",
    "StatusEvent",
    "Subscriber",
    "SupersededError",
    "TrainingError",
    "VerdictEvent",
    "__version__",
    "export",
    "follow",
    "open_bundle",
    "status",
    "subscribe",
    "train",
    "trigger",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in ("BundleInspector", "InspectionResult"):  # they load NumPy
            from edge import offline

            return getattr(offline, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
