"""From a configuration to a model: the one place that knows all families."""

from train.config import ModelConfig
from train.models.cnn import cam_classifier
from train.models.explained import ExplainedClassifier
from train.provenance import Provenance


def build_model(config: ModelConfig, tile_px: int) -> tuple[ExplainedClassifier, Provenance]:
    """The model of that configuration, and where its weights come from; errors as the family's own function."""
    return cam_classifier(config, tile_px)
