"""The names of `import heatline`; all of them load together, when the first is used."""

from typing import TYPE_CHECKING, Any

from heatline.bundles import open_bundle
from heatline.edge import __version__
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Gap, LineLost, NewBoot, Subscriber
from heatline.edge.errors import (
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
from heatline.edge.wire.events import (
    AlarmEvent,
    ChangeEvent,
    DriftEvent,
    JournalEvent,
    Message,
    PartEvent,
    Region,
    ReviewEvent,
    StatusEvent,
    StepEvent,
    VerdictEvent,
)
from heatline.edge.wire.following import Delivered
from heatline.lines import follow, status, subscribe, trigger
from heatline.training import export_bundle, train_model

if TYPE_CHECKING:
    from heatline.edge.offline import BundleInspector, InspectionResult

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
    "PartEvent",
    "Region",
    "ReviewEvent",
    "StatusEvent",
    "StepEvent",
    "Subscriber",
    "SupersededError",
    "TrainingError",
    "VerdictEvent",
    "__version__",
    "export_bundle",
    "follow",
    "open_bundle",
    "status",
    "subscribe",
    "train_model",
    "trigger",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in ("BundleInspector", "InspectionResult"):  # they load NumPy
            from heatline.edge import offline

            return getattr(offline, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
