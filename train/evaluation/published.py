"""The study's published figures, for comparison with ours.

Source: L. Zabulis, "Analysis of Defect Localization in Images Employing Explainability Methods within Deep Learning
Models", Kaunas University of Technology, 2024. The study has two sets of pictures: PCB (circuit boards) and GID (grey
pictures of gears). It states neither the discard ratio of its rollouts nor whether its pointing game is gated by the
classifier.

Keys of `published.json`:

- `gflops`: Table 1.1 as printed, by our models' names: multiply-adds; those of CNNs are at the native resolution of
  torchvision's V1 weights.
- `models`: rows of Tables 3.4 to 3.7, in their order, with our models' names; the fusion of heads is null for a CNN.
- `trials` of each data set: Table 3.2 or 3.3, by our models' names, the best of ten trials; accuracies in %.
- `maps`: Table 3.4 or 3.6, maps against the test set's annotations, and from Table 3.5 or 3.7 the mean over six metrics
  of the rank within the family, all as printed.
"""

from pathlib import Path
from typing import Any

import msgspec

PUBLISHED: dict[str, Any] = msgspec.json.decode((Path(__file__).parent / "published.json").read_bytes())
STUDY_DATA: tuple[str, ...] = tuple(PUBLISHED["data"])
STUDY_GFLOPS: dict[str, float] = PUBLISHED["gflops"]
