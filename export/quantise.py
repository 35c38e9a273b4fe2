"""int8 by post-training quantisation, with the explanation kept out of it."""

import logging
import os
import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.errors import ExportError, last_line
from edge.inference.devices import disable_signal_stack
from export.layers_in_f32 import OUTPUTS, first_layers, last_layers
from export.nodes import EXPLANATION
from export.openvino_ir import Ir


@dataclass(frozen=True)
class Quantisation:
    """One way to quantise."""

    extremes: bool = False
    """Ranges of activations: from the extremes over all tiles; else NNCF's own, from the mean of each tile's."""
    layers_only: bool = False
    """Convolutions and matrix products alone; else the sums, products and activations between them too."""
    first_in_f32: float = 0.0
    last_in_f32: float = 0.0
    """Shares of the layers that stay in f32, from either end."""

    @property
    def how(self) -> str:
        """In words."""
        parts = ["ranges from the extremes" if self.extremes else "NNCF's own ranges"]
        if self.layers_only:
            parts.append("convolutions and matrix products alone")
        shares = {"first": self.first_in_f32, "last": self.last_in_f32}
        kept = [f"the {end} {share:.0%}" for end, share in shares.items() if share]
        if kept:
            parts.append(f"{' and '.join(kept)} of the layers in f32")
        return ", ".join(parts)


WAYS = (
    Quantisation(),
    Quantisation(extremes=True),
    Quantisation(extremes=True, layers_only=True, first_in_f32=1 / 3),
    Quantisation(extremes=True, layers_only=True, first_in_f32=1 / 3, last_in_f32=1 / 6),
)
"""In the order in which they are tried: the cheapest to run first. Defects are rare, and what they excite lies beyond
the mean of the extremes: ranges from it cut off the peaks that a map is there to show.
"""

BETWEEN_LAYERS = ["Add", "Subtract", "Multiply", "Divide", "Relu", "Clamp", "HSwish", "HSigmoid", "Gelu", "ReduceMean"]


def quantise(ir: Ir, tiles: NDArray[np.uint8], way: Quantisation, *, transformer: bool) -> Ir:
    """The IR with int8 convolutions and matrix products.

    Ranges of activations may be asymmetric (NNCF's mixed preset); for transformers NNCF knows patterns of its own.

    Args:
        ir: in f32.
        tiles: [N, tile, tile, 3], to find the ranges with.
    Raises:
        ExportError: NNCF cannot.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else NNCF reports each call to its makers, unasked
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function for that sets every handler that it finds
    model = ir.read()
    patterns = [f"{EXPLANATION}.*", *(f"^{re.escape(name)}$" for name in OUTPUTS)]
    in_f32 = first_layers(model, way.first_in_f32) + last_layers(model, way.last_in_f32)
    patterns += [f"^{re.escape(name)}$" for name in in_f32]
    advanced = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX if way.extremes else None
    )
    try:
        with redirect_stdout(sys.stderr):  # standard output is for the report, and NNCF shows its progress there
            quantised = nncf.quantize(
                model,
                nncf.Dataset([{"tiles": tile[None]} for tile in tiles]),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                subset_size=len(tiles),
                ignored_scope=nncf.IgnoredScope(
                    patterns=patterns, types=BETWEEN_LAYERS if way.layers_only else [], validate=False
                ),
                advanced_parameters=advanced,
            )
    except Exception as error:  # NNCF's and OpenVINO's have no common base
        raise ExportError(f"NNCF cannot quantise this model ({last_line(error)})") from error
    finally:
        disable_signal_stack()  # it had many cores
    return Ir.of(quantised)
