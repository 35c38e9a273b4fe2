"""The tiles of a data set's pictures, with their truth."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry import TileGrid
from heatline.train.config import TrainConfig
from heatline.train.dense.tiles import DenseTiles, LabelKind, label_tiles
from heatline.train.frames import FrameStore
from heatline.train.run import read_data
from heatline.train.tiles import TileRule


@dataclass(frozen=True)
class Truth:
    """All grid tiles of a data set, frame by frame."""

    store: FrameStore
    rule: TileRule
    tiles: DenseTiles
    classes: dict[str, str]
    """Classes of pictures by name; empty if `labels.csv` names none."""

    @classmethod
    def of(cls, config: TrainConfig, decoded: Path) -> "Truth":
        """Read all pictures of a configuration.

        Args:
            decoded: folder of decoded frames, which are used again while pictures and labels are unchanged.
        Raises:
            InputError: a picture cannot be read.
            TrainingError: the disk is full.
        """
        data = read_data(config)
        store = FrameStore.build(data.images, decoded)
        classes = {image.name: image.class_name for image in data.images if image.class_name}
        rule = TileRule(**msgspec.structs.asdict(config.tiles))
        return cls(store, rule, label_tiles(store, rule), classes)

    @cached_property
    def _start(self) -> NDArray[np.int64]:
        return np.searchsorted(self.tiles.table.frame, np.arange(len(self.store) + 1))

    def rows(self, frame: int) -> slice:
        """Return the rows of a frame's tiles."""
        return slice(int(self._start[frame]), int(self._start[frame + 1]))

    def group_of(self, frame: int) -> str:
        return self.tiles.groups[int(self.tiles.group[self.rows(frame).start])]

    def grid(self, frame: int) -> TileGrid:
        return TileGrid(self.store.frame_hw(frame), self.rule.tile_px, self.rule.overlap_px)

    def inside_hw(self, row: int) -> tuple[int, int]:
        """Return height and width of the part of a tile, from its top left, that is inside the frame, px."""
        table, tile_px = self.tiles.table, self.rule.tile_px
        height, width = self.store.frame_hw(int(table.frame[row]))
        return min(tile_px, height - int(table.y[row])), min(tile_px, width - int(table.x[row]))

    def mask(self, row: int) -> NDArray[np.bool_]:
        """Return the defective pixels of a tile, bool [tile, tile]; none beyond the frame."""
        table, (height, width) = self.tiles.table, self.inside_hw(row)
        tile = self.store.mask_tile(int(table.frame[row]), int(table.y[row]), int(table.x[row]), self.rule.tile_px)
        tile[height:], tile[:, width:] = False, False
        return tile

    @cached_property
    def defective(self) -> NDArray[np.bool_]:
        """[frames]"""
        return np.array([image.defective for image in self.store.images], np.bool_)

    @cached_property
    def is_placed(self) -> NDArray[np.bool_]:
        """[tiles], whether it is known which of their pixels are defective."""
        return np.asarray(self.tiles.known != LabelKind.BAGGED)

    @cached_property
    def is_clean(self) -> NDArray[np.bool_]:
        """[tiles], whether none of their pixels is defective."""
        return np.asarray(self.tiles.known == LabelKind.GOOD)
