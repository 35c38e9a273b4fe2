"""What an engine is.

Work is handed over as two functions: `fill` writes tiles straight into the engine's own input, so that pixels are
copied once; `done` takes the answers, on the thread that submits.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import EngineError

EngineKind = Literal["openvino", "onnxruntime"]
Precision = Literal["f32", "bf16", "int8"]
"""What the classifier is computed in. bf16 is asked of the engine, int8 is a graph of its own."""

Fill = Callable[[NDArray[np.uint8]], None]
"""Writes tiles into an array [count, tile, tile, 3]."""
Failed = Callable[[Exception], None]


class Done(Protocol):
    """Takes answers; all are only valid during the call."""

    def __call__(
        self, logits: NDArray[np.float32], maps: NDArray[np.float32], features: NDArray[np.float32] | None = None, /
    ) -> None:
        """Of `count` tiles: logits [count], maps [count, h, w] and features [count, c]; None: the graph gives none."""


ANSWER_WITHIN_SECONDS = 60.0
NEVER_ANSWERED: list[object] = []
"""Requests that were given up, and may be at work for ever: to forget one is to wait for its end."""

PROCESSOR = "CPU"
"""The device that every machine has, and ONNX Runtime's only one."""

FEATURES = "features"
"""The output that not every graph has."""

# The graphs' file names in every bundle.
ONNX_GRAPH = "model.onnx"
OPENVINO_GRAPH = "model_f32.xml"
OPENVINO_WEIGHTS = "model_f32.bin"
GRAPHS: Mapping[Precision, tuple[str, ...]] = {
    "f32": (OPENVINO_GRAPH,),
    "bf16": (OPENVINO_GRAPH, "model_bf16.xml"),
    "int8": ("model_int8.xml",),
}
"""Per precision, the IR that it may have, the usual one first. In bf16 it may be another one: some models need parts of
theirs kept in f32."""


def weights_of(graph: str) -> str:
    """The file of an IR's weights.

    >>> weights_of("model_f32.xml")
    'model_f32.bin'
    """
    return graph.removesuffix(".xml") + ".bin"


class Keeper(Protocol):
    """Keeps compiled graphs for the next time."""

    def take(self, how: str) -> bytes | None:
        """The graph that was compiled in this way; None where there is none."""

    def keep(self, how: str, graph: Callable[[], bytes]) -> None:
        """Have a graph for the next time. `graph` makes its bytes, where it was not taken from here."""


class Engine(ABC):
    """A compiled graph. One thread submits, and it is this thread that takes in the answers, in any order: in `submit`,
    `collect` and `drain`. Whoever has nothing more to submit collects.
    """

    name: str
    precision: Precision = "f32"
    batch: int
    """Most tiles that one request takes."""

    @abstractmethod
    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        """Have `count` <= batch tiles inferred; waits while there is no room. One of `done` and `failed` is called."""

    def collect(self, within_s: float | None = None) -> bool:
        """Wait for an answer of those that are under way, and take it in; False: none is under way.

        Args:
            within_s: at most so long, and return True also where there was no answer yet.
        """
        return False

    def drain(self) -> None:
        """Return once all that was submitted is answered."""
        while self.collect():
            pass

    def close(self) -> None:  # noqa: B027  (most engines need none)
        """Give back its memory, once all that was submitted is answered; it cannot be used any more."""

    def verified(self) -> None:  # noqa: B027  (most engines keep nothing)
        """Word that its golden tiles came out right: what it compiled may be used again."""


def infer_features(engine: Engine, tiles: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """Features [N, c] of tiles [N, tile, tile, 3]; None: the graph gives none; errors as `infer`."""
    found = _answers(engine, tiles)
    return (
        None if found[0][2] is None else np.concatenate([features for _, _, features in found if features is not None])
    )


def infer(engine: Engine, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits [N] and maps [N, h, w] of tiles [N, tile, tile, 3]; waits for them.

    Raises:
        EngineError: it failed on some tile.
    """
    found = _answers(engine, tiles)
    return np.concatenate([logits for logits, _, _ in found]), np.concatenate([maps for _, maps, _ in found])


def _answers(
    engine: Engine, tiles: NDArray[np.uint8]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]]:
    """Copies of what was answered, request by request."""
    answers: dict[int, tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]] = {}
    errors: list[Exception] = []
    for first in range(0, len(tiles), engine.batch):
        part = tiles[first : first + engine.batch]

        def done(
            logits: NDArray[np.float32],
            maps: NDArray[np.float32],
            features: NDArray[np.float32] | None = None,
            /,
            first: int = first,
        ) -> None:
            answers[first] = logits.copy(), maps.copy(), None if features is None else features.copy()

        def fill(out: NDArray[np.uint8], part: NDArray[np.uint8] = part) -> None:
            out[:] = part

        engine.submit(len(part), fill, done, errors.append)
    engine.drain()
    if errors:
        raise EngineError(f"{engine.name} failed: {errors[0]}") from errors[0]
    return [answers[first] for first in sorted(answers)]
