"""What the figures are to be, and under which conditions: the one place where this stands. All are for two cores."""

from typing import Literal, NamedTuple

CORES = 2
LARGE_MP = 5
"""Of a frame, rounded: 2448x2048 px."""
FEWEST_TILES, MOST_TILES = 9, 480
SHARE_OF_HIGHEST, WINDOW_S = 0.8, 300.0
SMALL_MODEL = "mobilenetv3_large_d"

Figure = Literal[
    "service over engine", "idle", "jitter", "times as fast as grad-cam", "best other", "cost per tile", "ready", "PSS"
]


class Target(NamedTuple):
    """One figure to reach."""

    figure: Figure
    what: str
    """In words, with the unit."""
    bound: Literal["at least", "at most", "over", "under"]
    goal: float
    conditions: str
    """In words, but for the cores."""
    model: str | None = None
    """None: whichever."""

    @property
    def words(self) -> str:
        return f"{self.bound} {self.goal:g}"

    def is_reached(self, found: float) -> bool:
        match self.bound:
            case "at least":
                return found >= self.goal
            case "at most":
                return found <= self.goal
            case "over":
                return found > self.goal
            case "under":
                return found < self.goal


COST_PER_TILE_WITHIN = 0.1
"""By how much the dearest tile may cost more than the cheapest."""
READY_S = 2.0
"""With a model cache."""
SERVICE = "service over engine, saturated"
TARGETS = (
    Target("service over engine", SERVICE, "at least", 0.95, f"{SMALL_MODEL}, bf16, 5 MP", SMALL_MODEL),
    Target("service over engine", SERVICE, "at least", 0.98, "efficientnetv2_s_d, bf16, 5 MP", "efficientnetv2_s_d"),
    Target(
        "idle",
        "latency of a frame on an idle service, beyond its tiles in the engine, ms",
        *("at most", 5.0, "5 MP, no journal"),
    ),
    Target(
        "jitter",
        "p99 - p50 from capture to event, frame periods",
        *("under", 0.25, "at 80 % of the highest rate found, 300 s or more, no frame lost"),
    ),
    Target("times as fast as grad-cam", "frames per second, over grad-cam", "at least", 10.0, "same net, with maps"),
    Target("best other", "share of the engine, over the best other's", "over", 1.0, "same frames and net"),
    Target(
        "cost per tile",
        "dearest tile over the cheapest, %",
        *("at most", 100 * COST_PER_TILE_WITHIN, f"frames of {FEWEST_TILES} to {MOST_TILES} tiles"),
    ),
    Target("ready", "process start to READY, s", "under", READY_S, "with a model cache"),
    Target(
        "PSS",
        "PSS of the service's processes, MB",
        *("under", 400.0, f"{SMALL_MODEL}, one camera of 5 MP", SMALL_MODEL),
    ),
)
