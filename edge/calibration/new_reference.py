"""Makes the reference of a line, of another design or of a changed product from good frames, without training."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from heatline.edge.bundle.manifest import ProductReference, product_picture_of
from heatline.edge.errors import InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.images import digest_picture, read_rgb
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.reference.reference import MOST_FRAMES, Reference
from heatline.edge.util.evenly import evenly
from heatline.edge.util.text import format_count

FEWEST_FRAMES = 3
"""Each frame is compared with a reference of the others, and of two that differ nobody knows which is good."""


class NewReference:
    """A reference of good frames. `files` lists those that it is made from: at most `MOST_FRAMES`, evenly chosen,
    without copies, which would only agree with each other. `digests` are those of `digest_picture`.

    Args:
        files: at least one.
        names: describes where they come from.
        camera: the camera that it holds for; empty: all cameras that have none of their own.
    Raises:
        InputError: a file cannot be read, or the frames differ in size, do not show the same part in nearly the same
            place, show nothing that can be aligned, or disagree about what a good part looks like.
    """

    def __init__(self, files: Sequence[Path], names: str, camera: str = "") -> None:
        self.camera = camera
        by_digest: dict[str, Path] = {}
        for at in evenly(len(files), MOST_FRAMES):
            by_digest.setdefault(digest_picture(files[at]), files[at])
        self.digests, self.files = list(by_digest), list(by_digest.values())
        self.made_of = f"{format_count(len(self.files), 'good frame')} of {names}"
        self._pictures = [read_rgb(file) for file in self.files]
        first = Reference.of(self._pictures[:1], str(self.files[0]))
        poses = {file: first.pose_of(rgb) for file, rgb in zip(self.files[1:], self._pictures[1:], strict=True)}
        unfit = {file: reason for file, (_, reason) in poses.items() if reason is not None}
        if unfit:
            file, reason = next(iter(unfit.items()))
            odd, other = (file, self.files[0]) if 2 * len(unfit) <= len(poses) else (self.files[0], file)
            raise InputError(
                f"{odd} does not fit {other}: {reason}; remove it, and name good frames of one size and one design "
                "in which the part lies nearly alike"
            )
        self.reference = Reference.of(self._pictures, self.made_of)

    def of(self, file: Path) -> Reference:
        """Return what a frame is compared with: on the line, a frame is new to the reference, so it has no part in it.

        Raises:
            InputError: the other frames disagree about what a good part looks like.
        """
        own = digest_picture(file)
        others = [rgb for digest, rgb in zip(self.digests, self._pictures, strict=True) if digest != own]
        return self.reference if len(others) == len(self.files) else Reference.of(others, self.made_of)

    def judged(
        self, inspector: Inspector, area: RegionOfInterest, track: Callable[[Sequence[Path]], Iterable[Path]] = iter
    ) -> dict[Path, Judgement]:
        """Inspect each frame, compared with a reference of the others. Fewer than `FEWEST_FRAMES` are compared with the
        reference itself, so no defect of theirs is seen.

        Raises:
            EngineError: the network gave no usable answer.
        """
        judged = {}
        for number, (file, rgb) in enumerate(zip(track(self.files), self._pictures, strict=True), start=1):
            try:
                reference = self.of(file) if len(self.files) >= FEWEST_FRAMES else self.reference
            except InputError:  # two of three disagree: which of them is defective shows without the other
                reference = self.reference
            frame = Frame(Stamp(self.camera, number, str(file)), rgb, "RGB8")
            judged[file] = inspector.finish(inspector.start(frame, area, reference=reference))
        return judged

    def warnings(self) -> list[str]:
        """Describe where half of the frames may have a faint defect, of which the reference shows a ghost."""
        place = self.reference.find_faint_ghost(self._pictures)
        x, y = place or (0, 0)
        found = f"none of the frames shows what their median shows at x {x}, y {y}"
        return [f"{found}: half of them may have a faint defect there; check them, or name more"] if place else []

    @cached_property
    def stated(self) -> ProductReference:
        """What the manifest says of it."""
        file = product_picture_of(self.camera)
        return ProductReference(file, self.reference.frame_hw, self.reference.frames, self.made_of)

    @property
    def content(self) -> dict[str, bytes]:
        """The content of its file, by name."""
        return {self.stated.file: self.reference.to_png()}
