"""The systems that are compared."""

from dataclasses import dataclass
from typing import Literal

from heatline.edge.inference import Precision

SystemName = Literal["engine alone", "heatline", "anomalib", "model-api", "grad-cam"]
ENGINE: SystemName = "engine alone"
OURS: SystemName = "heatline"


@dataclass(frozen=True)
class System:
    """A system."""

    name: SystemName
    module: str
    """In `workers/`."""
    what: str
    """Description of the system."""
    in_peers_environment: bool = False
    """Whether the Python of the peers' environment runs it, instead of heatline's."""
    precisions: tuple[Precision, ...] = ("f32", "bf16", "int8")


SYSTEMS = (
    System(ENGINE, "engine_alone", "OpenVINO, which infers the same tensors again and again; its answers are not used"),
    System(
        OURS,
        "heatline_inspector",
        "the line's inspector: tile, infer, stitch, judge with regions; a frame is judged while the next is inferred",
    ),
    System("anomalib", "anomalib_tiler", "anomalib's Tiler.tile, OpenVINOInferencer.predict, Tiler.untile", True),
    System(
        "model-api",
        "model_api_tiler",
        "OpenVINO Model API: a Tiler that merges the maps of AnomalyDetection, which its AsyncPipeline runs",
        True,
    ),
    System(
        "grad-cam",
        "grad_cam",
        "PyTorch with GradCAM of pytorch-grad-cam, channels last; maps joined by their mean",
        precisions=("f32",),
    ),
)
PEERS = tuple(system.name for system in SYSTEMS[2:])
