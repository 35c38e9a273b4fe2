"""Builds a model from its configuration; the only module that knows all families."""

from heatline.train.config import CnnConfig, VitConfig
from heatline.train.models.cnn import cam_classifier
from heatline.train.models.dense import dense_classifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import rollout_classifier
from heatline.train.provenance import Provenance


def build_model(config: CnnConfig | VitConfig, tile_px: int) -> tuple[ExplainedClassifier, Provenance]:
    """Build a model; return it with the provenance of its weights. Errors as the family's own function."""
    match config:
        case CnnConfig(head="dense"):
            return dense_classifier(config, tile_px)
        case CnnConfig():
            return cam_classifier(config, tile_px)
        case VitConfig():
            return rollout_classifier(config, tile_px)
