"""The study's published figures, for comparison with ours.

Source: L. Zabulis, "Analysis of Defect Localization in Images Employing Explainability Methods within Deep Learning
Models", Kaunas University of Technology, 2024; each figure names its table there. The study has two sets of pictures:
PCB (circuit boards) and GID (grey pictures of gears). It states neither the discard ratio of its rollouts nor whether
its pointing game is gated by the classifier.
"""

from typing import Literal, NamedTuple

StudyData = Literal["PCB", "GID"]
STUDY_DATA: tuple[StudyData, ...] = ("PCB", "GID")

SOURCE = "L. Zabulis, Kaunas University of Technology, 2024"
DATA_OF_STUDY = {
    "PCB": "68,270 tiles of 1,386 pictures of circuit boards",
    "GID": "77,978 tiles of 2,000 grey pictures of gears",
}
TRAINING_OF_STUDY = "20 epochs from ImageNet weights"


STUDY_GFLOPS = {
    "efficientnetv2_s": 8.37,
    "mobilenetv3_large": 0.22,
    "vit_tiny_patch16_224": 1.30,
    "deit_tiny_patch16_224": 1.08,
}
"""Table 1.1 as printed, by our models' names: multiply-adds; those of CNNs are at the native resolution of
torchvision's V1 weights."""


class BestTrial(NamedTuple):
    """A row of Table 3.2 (PCB) or 3.3 (GID): the best of ten trials; accuracies in %."""

    lr: float
    batch: int
    loss: float
    validation_accuracy: float
    test_accuracy: float


class MapFigures(NamedTuple):
    """A row of Table 3.4 (PCB) or 3.6 (GID): maps against the test set's annotations; fields in the study's order."""

    f1: float
    precision: float
    jaccard: float
    accuracy: float
    recall: float
    pointing: float
    """The study does not state whether it is gated by the classifier."""


class StudyModel(NamedTuple):
    """A model's name in the study and in heatline."""

    name: str
    ours: str
    fusion: str | None
    """Fusion of heads; None for a CNN."""

    @property
    def family(self) -> str:
        return "cnn" if self.fusion is None else "vit"


MODELS = {
    "EfficientNetV2_s_d": StudyModel("EfficientNetV2_s_d", "efficientnetv2_s_d", None),
    "EfficientNetV2_s": StudyModel("EfficientNetV2_s", "efficientnetv2_s", None),
    "MobileNetV3_large_d": StudyModel("MobileNetV3_large_d", "mobilenetv3_large_d", None),
    "MobileNetV3_large": StudyModel("MobileNetV3_large", "mobilenetv3_large", None),
    **{
        f"{name} f{fusion}": StudyModel(f"{name} f{fusion}", ours, fusion)
        for name, ours in (("DeiT_tiny", "deit_tiny_patch16_224"), ("ViT_tiny", "vit_tiny_patch16_224"))
        for fusion in ("min", "mean", "max")
    },
}
"""Rows of Tables 3.4 to 3.7, in their order."""

TRIALS_TABLE = {"PCB": "3.2", "GID": "3.3"}
MAPS_TABLE = {"PCB": "3.4", "GID": "3.6"}
RANKS_TABLE = {"PCB": "3.5", "GID": "3.7"}

TRIALS: dict[StudyData, dict[str, BestTrial]] = {
    "PCB": {
        "efficientnetv2_s": BestTrial(0.0028, 64, 0.079, 98.41, 98.49),
        "efficientnetv2_s_d": BestTrial(0.0020, 32, 0.073, 98.46, 98.54),
        "mobilenetv3_large": BestTrial(0.0080, 64, 0.082, 98.33, 98.15),
        "mobilenetv3_large_d": BestTrial(0.0028, 64, 0.087, 98.10, 98.12),
        "deit_tiny_patch16_224": BestTrial(0.00008, 64, 0.088, 98.13, 98.26),
        "vit_tiny_patch16_224": BestTrial(0.00007, 32, 0.084, 98.30, 98.36),
    },
    "GID": {
        "efficientnetv2_s": BestTrial(0.0020, 32, 0.170, 94.06, 93.34),
        "efficientnetv2_s_d": BestTrial(0.0020, 32, 0.169, 93.97, 93.56),
        "mobilenetv3_large": BestTrial(0.0020, 32, 0.217, 93.59, 93.33),
        "mobilenetv3_large_d": BestTrial(0.0028, 64, 0.172, 93.59, 93.18),
        "deit_tiny_patch16_224": BestTrial(0.00009, 32, 0.177, 94.04, 93.49),
        "vit_tiny_patch16_224": BestTrial(0.00008, 32, 0.165, 94.20, 93.74),
    },
}
"""Tables 3.2 and 3.3, by our models' names."""

MAPS: dict[StudyData, dict[str, MapFigures]] = {
    "PCB": {
        "EfficientNetV2_s_d": MapFigures(0.5482, 0.8918, 0.3776, 0.9962, 0.3958, 0.8230),
        "EfficientNetV2_s": MapFigures(0.4652, 0.7886, 0.3031, 0.9956, 0.3210, 0.7867),
        "MobileNetV3_large_d": MapFigures(0.6397, 0.5933, 0.4703, 0.9954, 0.6941, 0.7598),
        "MobileNetV3_large": MapFigures(0.5214, 0.4943, 0.3527, 0.9941, 0.5518, 0.5701),
        "DeiT_tiny fmin": MapFigures(0.3262, 0.9620, 0.1949, 0.9953, 0.1964, 0.7877),
        "DeiT_tiny fmean": MapFigures(0.4300, 0.8791, 0.2739, 0.9956, 0.2846, 0.7838),
        "DeiT_tiny fmax": MapFigures(0.5113, 0.5993, 0.3434, 0.9950, 0.4458, 0.7239),
        "ViT_tiny fmin": MapFigures(0.2726, 0.8860, 0.1578, 0.9949, 0.1611, 0.7912),
        "ViT_tiny fmean": MapFigures(0.4041, 0.8896, 0.2532, 0.9955, 0.2613, 0.7924),
        "ViT_tiny fmax": MapFigures(0.5142, 0.7543, 0.3460, 0.9957, 0.3901, 0.7724),
    },
    "GID": {
        "EfficientNetV2_s_d": MapFigures(0.1364, 0.5144, 0.0732, 0.9812, 0.0787, 0.5827),
        "EfficientNetV2_s": MapFigures(0.2171, 0.3103, 0.1218, 0.9773, 0.1669, 0.3411),
        "MobileNetV3_large_d": MapFigures(0.2003, 0.3980, 0.1113, 0.9798, 0.1338, 0.5419),
        "MobileNetV3_large": MapFigures(0.2540, 0.3038, 0.1455, 0.9758, 0.2183, 0.5228),
        "DeiT_tiny fmin": MapFigures(0.2123, 0.3811, 0.1188, 0.9794, 0.1472, 0.4603),
        "DeiT_tiny fmean": MapFigures(0.1749, 0.1889, 0.0958, 0.9710, 0.1628, 0.2516),
        "DeiT_tiny fmax": MapFigures(0.1333, 0.1354, 0.0715, 0.9678, 0.1314, 0.1888),
        "ViT_tiny fmin": MapFigures(0.1264, 0.3539, 0.0675, 0.9799, 0.0769, 0.4524),
        "ViT_tiny fmean": MapFigures(0.2223, 0.2784, 0.1251, 0.9756, 0.1851, 0.4043),
        "ViT_tiny fmax": MapFigures(0.2035, 0.1865, 0.1133, 0.9669, 0.2239, 0.2995),
    },
}
"""Tables 3.4 and 3.6, by the study's names."""

MAP_CLASSIFICATION: dict[StudyData, dict[str, float]] = {
    "PCB": {
        "efficientnetv2_s_d": 0.9853,
        "efficientnetv2_s": 0.9849,
        "mobilenetv3_large_d": 0.9812,
        "mobilenetv3_large": 0.9815,
        "deit_tiny_patch16_224": 0.9825,
        "vit_tiny_patch16_224": 0.9836,
    },
    "GID": {
        "efficientnetv2_s_d": 0.9356,
        "efficientnetv2_s": 0.9334,
        "mobilenetv3_large_d": 0.9318,
        "mobilenetv3_large": 0.9332,
        "deit_tiny_patch16_224": 0.9349,
        "vit_tiny_patch16_224": 0.9373,
    },
}
"""The classification accuracy that Tables 3.4 and 3.6 give beside the maps, by our models' names."""

MEAN_RANKS: dict[StudyData, dict[str, float]] = {
    "PCB": {
        "EfficientNetV2_s_d": 1.67,
        "EfficientNetV2_s": 3,
        "MobileNetV3_large_d": 2,
        "MobileNetV3_large": 3.3,
        "DeiT_tiny fmin": 3.5,
        "DeiT_tiny fmean": 2.83,
        "DeiT_tiny fmax": 3.67,
        "ViT_tiny fmin": 5,
        "ViT_tiny fmean": 3.5,
        "ViT_tiny fmax": 2.5,
    },
    "GID": {
        "EfficientNetV2_s_d": 2.5,
        "EfficientNetV2_s": 2.67,
        "MobileNetV3_large_d": 2.5,
        "MobileNetV3_large": 2.33,
        "DeiT_tiny fmin": 2,
        "DeiT_tiny fmean": 4,
        "DeiT_tiny fmax": 5.5,
        "ViT_tiny fmin": 3.83,
        "ViT_tiny fmean": 2.17,
        "ViT_tiny fmax": 3.5,
    },
}
"""Tables 3.5 and 3.7, as printed: the mean over six metrics of the rank within the family."""


def study_model(ours: str, fusion: str | None) -> StudyModel | None:
    """Return the study's row of one of our models; None if it has none.

    Args:
        fusion: of heads; None for a CNN.
    """
    return next((model for model in MODELS.values() if (model.ours, model.fusion) == (ours, fusion)), None)


def closer_first(data: str) -> tuple[StudyData, ...]:
    """Return the study's data, the more similar first, judged by the name of ours: PCB for boards, GID for others."""
    boards = any(word in data.lower() for word in ("pcb", "board"))
    return STUDY_DATA if boards else STUDY_DATA[::-1]
