"""In what two bundles differ, as far as it can change a verdict on a picture of an archive."""

from heatline.edge.bundle import Bundle
from heatline.edge.bundle.manifest import PRODUCT_TILES, product_picture_of
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.inference.engine import ONNX_GRAPH, weights_of

GRAPH = "graph"


def difference_of(new: Bundle, old: Bundle, engine: EngineKind, precision: Precision) -> list[str]:
    """Return in what two bundles differ.

    The names are `graph`, `grid`, `reference`, `score threshold`, `evidence threshold`, `strong evidence`, `plausible
    frames`. Without the first three, each picture has the same scores with both. Graphs count as different if their
    files are, which two exports of one model can cause too.
    """
    values = [_values(bundle, engine, precision) for bundle in (new, old)]
    return [name for name, value in values[0].items() if value != values[1][name]]


def _values(bundle: Bundle, engine: EngineKind, precision: Precision) -> dict[str, object]:
    manifest = bundle.manifest
    graph = bundle.graph_for(precision)
    files = (ONNX_GRAPH,) if engine == "onnxruntime" else (graph, weights_of(graph))
    return {
        GRAPH: [manifest.files.get(name) for name in files],
        "grid": (manifest.grid, manifest.map, manifest.tensors, manifest.colour),
        "reference": manifest.files.get(product_picture_of("")),
        "score threshold": manifest.calibration.score_threshold,
        "evidence threshold": manifest.calibration.evidence_threshold,
        "strong evidence": manifest.calibration.strong_evidence,
        "plausible frames": (manifest.calibration.plausible, manifest.files.get(PRODUCT_TILES)),
    }
