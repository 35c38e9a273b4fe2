"""What else claims tiles or maps, and why it is not timed: each was looked at, and installed if it can be."""

from collections.abc import Mapping

import msgspec

from edge.inference import Precision


class Cannot(msgspec.Struct, frozen=True):
    """One that is not timed."""

    name: str
    version: str
    """That was looked at."""
    reason: str


CANNOT = (
    Cannot(
        "openvino-xai",
        "1.1.0",
        "cannot be installed beside this OpenVINO: it asks for openvino-dev 2024.4 and numpy 1, and without them it "
        "fails on openvino.runtime, which OpenVINO 2026 has no more; it scales each map to 0..255, so that maps of "
        "tiles cannot be put together",
    ),
    Cannot(
        "anomalib's tiled ensemble",
        "2.7.0",
        "comes with anomalib, and trains a network for every place of a tile; it cannot run one network on all tiles",
    ),
    Cannot("sahi", "0.12.8", "can be installed; puts together boxes and masks of detectors, no maps of a classifier"),
    Cannot(
        "supervision",
        "0.31.2",
        "can be installed; its InferenceSlicer puts together detections, no maps of a classifier",
    ),
    Cannot(
        "inference",
        "1.8.3",
        "pip would install it, with numpy 2.2 in place of ours; its image slicer and detections stitch put together "
        "detections, no maps of a classifier",
    ),
    Cannot(
        "anomavision",
        "3.6.2",
        "cannot be installed beside this OpenVINO: it asks for openvino-dev, which ended with 2024, and numpy 1.26.4; "
        "it runs networks of its own, on whole pictures",
    ),
    Cannot(
        "anofit",
        "0.4.1",
        "was not installed: its licence is for 90 days of evaluation; it runs networks of its own, and no other",
    ),
    Cannot("vit-explain", "", "is no package; a script for one picture at a time, and for ViTs alone"),
    Cannot(
        "DL Streamer Pipeline Server, Savant, Frigate",
        "",
        "are containers and no libraries; they detect and classify by boxes, and make no maps",
    ),
)
NOT_IN: Mapping[Precision, str] = {
    "int8": "PyTorch's int8 layers have no gradients, which Grad-CAM is made of; its figure is that in f32",
    "bf16": "it takes activations and gradients through numpy, which has no bf16; its figure is that in f32",
}
