"""The published figures of the study, of L. Zabulis, "Analysis of Defect Localization in Images Employing
Explainability Methods within Deep Learning Models", Kaunas University of Technology, 2024.

`gflops` is its Table 1.1 as printed, multiply-adds; those of CNNs at the native resolution of torchvision's V1 weights.
`trials` are Tables 3.2 and 3.3, the best of ten trials, accuracies in %; `maps` Tables 3.4 and 3.6, with the mean ranks
of Tables 3.5 and 3.7. Its two sets of pictures are PCB (circuit boards) and GID (gears).
"""

from pathlib import Path
from typing import Any

import msgspec

PUBLISHED: dict[str, Any] = msgspec.json.decode((Path(__file__).parent / "published.json").read_bytes())
STUDY_GFLOPS: dict[str, float] = PUBLISHED["gflops"]
