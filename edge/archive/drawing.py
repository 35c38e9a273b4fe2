"""Inspects the pictures of a report again, in this process, to draw their overlays."""

from collections.abc import Iterable, Iterator, Sequence

from edge.archive.loading import load, read_ahead
from edge.archive.overlays import Draw, Wanted, overlay_jpeg
from edge.archive.plan import Pictures
from edge.bundle import Bundle, open_verified_engine
from edge.inference import EngineKind, Precision
from edge.offline import BundleInspector


def drawer(bundles: Iterable[Bundle], pictures: Pictures, engine: EngineKind, precision: Precision) -> Draw:
    """Return the function that draws overlays with some bundles."""
    by_digest = {bundle.digest: bundle for bundle in bundles}

    def draw(digest: str, wanted: Sequence[Wanted]) -> Iterator[tuple[int, bytes | None]]:
        bundle = by_digest[digest]
        with BundleInspector(bundle, open_verified_engine(bundle, engine, precision)) as inspector:
            ahead = read_ahead(lambda each: load(pictures, each.number, each.picture), wanted)
            for each, loaded in zip(wanted, ahead, strict=True):
                if loaded.content != each.content:  # the file has changed
                    yield each.number, None
                    continue
                (result,) = inspector.inspect_frames([loaded.frame])
                yield each.number, overlay_jpeg(result)

    return draw
