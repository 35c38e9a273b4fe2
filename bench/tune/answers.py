"""What frames were judged by: settings that skip work would answer otherwise."""

from collections.abc import Iterable

from edge.bundle import Bundle
from edge.engine_config import EngineConfig
from edge.errors import BenchError
from edge.inference import Precision


class Answers:
    """The first score of each camera's picture in each precision, to which all others are held."""

    def __init__(self, bundle: Bundle) -> None:
        self._scale, self._tolerances = bundle.golden().scale("logit"), bundle.manifest.tolerances
        self._scores: dict[tuple[Precision, str], float] = {}

    def check(self, engine: EngineConfig, scores: Iterable[tuple[str, float]]) -> None:
        """See that scores are those of the others.

        Args:
            scores: each with its frame's camera.
        Raises:
            BenchError: one is not.
        """
        for camera, score in scores:
            first = self._scores.setdefault((engine.precision, camera), score)
            # Both may be off as the golden tiles may be.
            most = 2 * self._tolerances[engine.precision] * max(self._scale, abs(first))
            if not abs(score - first) <= most:
                raise BenchError(
                    f"with {engine} the frame's score is {score:.4f}, with others in {engine.precision} {first:.4f}; "
                    "nothing can be said of what is that far off"
                )
