"""A plain ViT in small with attention rollout, untrained."""

from timm.models.vision_transformer import VisionTransformer

from heatline.train.models.vit import RolloutClassifier


class ToyViT(RolloutClassifier):
    """Two layers, two heads, fused by maximum. `tile_px`: side of a tile; a multiple of `patch_px`."""

    def __init__(self, tile_px: int = 64, patch_px: int = 16, width: int = 16, layers: int = 2) -> None:
        network = VisionTransformer(
            img_size=tile_px, patch_size=patch_px, embed_dim=width, depth=layers, num_heads=2, num_classes=0
        )
        super().__init__(network, "max", 0.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
