"""The interface of an engine.

A caller submits two functions: `fill` writes tiles straight into the engine's own input, so that pixels are copied
once; `done` receives the answers, on the thread that submits.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import EngineError
from heatline.edge.reference.difference import CELL_PX, CHANNELS, reduce_difference

EngineKind = Literal["openvino", "onnxruntime"]
Precision = Literal["f32", "bf16", "int8"]
"""The precision of the classifier. bf16 is a setting of the engine; int8 has its own graph."""

Failed = Callable[[Exception], None]


class Fill(Protocol):
    """Writes the inputs of `count` tiles."""

    def __call__(self, tiles: NDArray[np.uint8], difference: NDArray[np.uint8] | None = None, /) -> None:
        """Write tiles [count, tile, tile, 3], and what they show beyond a reference [count, cells, cells, channels],
        see `heatline.edge.reference.difference`; difference is None if the graph has no such input.
        """


class Done(Protocol):
    """Receives answers; the arrays are valid only during the call."""

    def __call__(
        self, logits: NDArray[np.float32], maps: NDArray[np.float32], features: NDArray[np.float32] | None = None, /
    ) -> None:
        """Receive the logits [count], maps [count, h, w] and features [count, h, w, c], or [count, c] of graphs before
        bundle schema 10, of `count` tiles; features are None if the graph has no such output.
        """


ANSWER_WITHIN_SECONDS = 60.0
ABANDONED_REQUESTS: list[object] = []
"""Requests that were given up and may never end. They stay in memory, as the destructor of a request waits for it."""

PROCESSOR = "CPU"
"""The device that every machine has; ONNX Runtime uses only this one."""

FEATURES = "features"
"""The graph's optional output."""
DIFFERENCE = "difference"
"""The graph's optional second input."""

# The graphs' file names in every bundle.
ONNX_GRAPH = "model.onnx"
OPENVINO_GRAPH = "model_f32.xml"
OPENVINO_WEIGHTS = "model_f32.bin"
GRAPHS: Mapping[Precision, tuple[str, ...]] = {
    "f32": (OPENVINO_GRAPH,),
    "bf16": (OPENVINO_GRAPH, "model_bf16.xml"),
    "int8": ("model_int8.xml",),
}
"""The possible IRs of each precision, the usual one first. bf16 may have its own: some models need parts in f32."""


def weights_of(graph: str) -> str:
    """Return the file name of an IR's weights.

    >>> weights_of("model_f32.xml")
    'model_f32.bin'
    """
    return graph.removesuffix(".xml") + ".bin"


class Engine(ABC):
    """A compiled graph. One thread submits tiles and receives the answers, in any order, during `submit`, `collect` and
    `drain`; what receives an answer may submit more. A thread that has nothing more to submit must call `collect`.
    """

    name: str
    precision: Precision = "f32"
    batch: int
    """The largest number of tiles in one request."""
    compares: bool = False
    """Whether the graph has the second input: what tiles have beyond the range of a reference."""

    @abstractmethod
    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        """Infer `count` <= batch tiles. Wait while there is no room. Either `done` or `failed` is called later."""

    def collect(self, within_s: float | None = None) -> bool:
        """Wait for the answer of a pending request, and call its `done` or `failed`. Return False if none is pending;
        True also if the wait ended without an answer.
        """
        return False

    def collect_ended(self) -> None:  # noqa: B027  (an engine that answers during `submit` needs none)
        """Call `done` or `failed` of all requests that have ended, also of those after a slow one. Do not wait."""

    def drain(self) -> None:
        """Wait until every request is answered."""
        while self.collect():
            pass

    def close(self) -> None:  # noqa: B027  (most engines need none)
        """Wait until every request is answered, and free the memory. A closed engine cannot be used."""


class ReducingEngine(Engine):
    """Reduces tiles, and their differences to a reference, before an engine infers them.

    Args:
        engine: of a graph for tiles [N, seen, seen, 3]; closed with this one.
        tile_px: side of the tiles that this one takes.
    """

    def __init__(self, engine: Engine, tile_px: int) -> None:
        self.name, self.batch, self.compares, self._engine = engine.name, engine.batch, engine.compares, engine
        self._tiles = np.empty((engine.batch, tile_px, tile_px, 3), np.uint8)
        cells = tile_px // CELL_PX
        self._difference = np.empty((engine.batch, cells, cells, CHANNELS), np.uint8)

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        def reduced(into: NDArray[np.uint8], difference_into: NDArray[np.uint8] | None = None, /) -> None:
            tiles, difference = self._tiles[:count], self._difference[:count]
            fill(tiles, None if difference_into is None else difference)
            for tile, small in zip(tiles, into, strict=True):
                reduce_tile(tile, small)
            if difference_into is not None:
                difference_into[:] = reduce_difference(difference, difference_into.shape[1])

        self._engine.submit(count, reduced, done, failed)

    def collect(self, within_s: float | None = None) -> bool:
        return self._engine.collect(within_s)

    def collect_ended(self) -> None:
        self._engine.collect_ended()

    def close(self) -> None:
        self._engine.close()


def reduce_tile(tile: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Write a tile [tile, tile, 3] to `out` [seen, seen, 3], of half the side or less.

    It is halved first: bilinear reduction skips pixels, and by areas OpenCV is fast for whole ratios only.
    """
    side = len(tile) // 2
    cv2.resize(cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA), out.shape[:2], dst=out)


Answers = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]


def infer_features(engine: Engine, tiles: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """Return the features [N, h, w, c] of tiles [N, tile, tile, 3]; None: it gives none. Errors as in `infer`.

    Features do not depend on a reference, so no difference is needed.
    """
    return _answers(engine, tiles, np.zeros((len(tiles), 1, 1, 1), np.uint8))[2]


def infer(
    engine: Engine, tiles: NDArray[np.uint8], difference: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Wait for the logits [N] and maps [N, h, w] of tiles [N, tile, tile, 3], and return them.

    Args:
        difference: [N, cells, cells, channels], if the engine compares; other engines do not read it.
    Raises:
        EngineError: the engine failed on a tile, or compares, and there is no difference.
    """
    if engine.compares and difference is None:
        raise EngineError(
            f"the graph of {engine.name} compares tiles with a reference, and got tiles alone; give it the difference "
            "of each tile too"
        )
    return _answers(engine, tiles, difference)[:2]


def _answers(engine: Engine, tiles: NDArray[np.uint8], difference: NDArray[np.uint8] | None) -> Answers:
    answers: dict[int, Answers] = {}
    errors: list[Exception] = []

    def submit(rows: slice) -> None:
        def fill(into: NDArray[np.uint8], difference_into: NDArray[np.uint8] | None = None, /) -> None:
            into[:] = tiles[rows]
            if difference_into is not None and difference is not None:
                difference_into[:] = difference[rows]

        def done(
            logits: NDArray[np.float32], maps: NDArray[np.float32], features: NDArray[np.float32] | None = None, /
        ) -> None:
            answers[rows.start] = logits.copy(), maps.copy(), None if features is None else features.copy()

        engine.submit(len(tiles[rows]), fill, done, errors.append)

    for first in range(0, len(tiles), engine.batch):
        submit(slice(first, first + engine.batch))
    engine.drain()
    if errors:
        raise EngineError(f"{engine.name} failed: {errors[0]}") from errors[0]
    logits, maps, features = zip(*(answers[first] for first in sorted(answers)), strict=True)
    return np.concatenate(logits), np.concatenate(maps), None if features[0] is None else np.concatenate(features)
