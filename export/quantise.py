"""Post-training quantisation to int8; the explanation is not quantised."""

import logging
import os
import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass

from heatline.edge.errors import ExportError, last_line
from heatline.edge.inference.devices import disable_signal_stack
from heatline.edge.inference.engine import DIFFERENCE
from heatline.export.layers_in_f32 import OUTPUTS, first_layers, last_layers
from heatline.export.nodes import EXPLANATION
from heatline.export.openvino_ir import Ir
from heatline.train.validation_frames import Inputs


@dataclass(frozen=True)
class Quantisation:
    """One variant of the quantisation."""

    extremes: bool = False
    """Whether ranges of activations are the extremes over all tiles; otherwise NNCF's own ranges, which average the
    extremes of each tile."""
    layers_only: bool = False
    """Whether only convolutions and matrix products are quantised; otherwise the operations between them are too."""
    first_in_f32: float = 0.0
    last_in_f32: float = 0.0
    """Shares of the layers that stay in f32, from either end."""

    @property
    def description(self) -> str:
        """The variant's description in the manifest."""
        parts = ["ranges from the extremes" if self.extremes else "NNCF's own ranges"]
        if self.layers_only:
            parts.append("convolutions and matrix products alone")
        shares = {"first": self.first_in_f32, "last": self.last_in_f32}
        kept = [f"the {end} {100 * share:.0f} %" for end, share in shares.items() if share]
        if kept:
            parts.append(f"{' and '.join(kept)} of the layers in f32")
        return ", ".join(parts)


VARIANTS = (
    Quantisation(),
    Quantisation(extremes=True),
    Quantisation(extremes=True, layers_only=True, first_in_f32=1 / 3),
    Quantisation(extremes=True, layers_only=True, first_in_f32=1 / 3, last_in_f32=1 / 6),
)
"""The variants in the order in which they are tried: the fastest graph first. Defects are rare, and their activations
exceed the mean of the extremes: ranges from that mean cut off the peaks that a map must show.
"""

BETWEEN_LAYERS = ["Add", "Subtract", "Multiply", "Divide", "Relu", "Clamp", "HSwish", "HSigmoid", "Gelu", "ReduceMean"]


def quantise(ir: Ir, samples: Inputs, variant: Quantisation, *, transformer: bool) -> Ir:
    """Return the IR with int8 convolutions and matrix products.

    Ranges of activations may be asymmetric (NNCF's mixed preset); NNCF has special patterns for transformers.

    Args:
        ir: in f32.
        samples: what the graph takes; they set the ranges.
    Raises:
        ExportError: NNCF cannot quantise this model.
    """
    os.environ.setdefault("NNCF_CI", "1")  # disables NNCF's telemetry, which is on by default
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)  # NNCF's own function also sets every handler that it finds
    model = ir.read()
    patterns = [f"{EXPLANATION}.*", *(f"^{re.escape(name)}$" for name in OUTPUTS)]
    in_f32 = first_layers(model, variant.first_in_f32) + last_layers(model, variant.last_in_f32)
    patterns += [f"^{re.escape(name)}$" for name in in_f32]
    advanced = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX if variant.extremes else None
    )
    try:
        with redirect_stdout(sys.stderr):  # NNCF prints progress to standard output, which is for the report
            quantised = nncf.quantize(
                model,
                nncf.Dataset(
                    [
                        {name: one[None] for name, one in zip(("tiles", DIFFERENCE), sample, strict=False)}
                        for sample in zip(*samples, strict=True)
                    ]
                ),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                subset_size=len(samples[0]),
                ignored_scope=nncf.IgnoredScope(
                    patterns=patterns, types=BETWEEN_LAYERS if variant.layers_only else [], validate=False
                ),
                advanced_parameters=advanced,
            )
    except Exception as error:  # NNCF's and OpenVINO's errors have no common base
        raise ExportError(f"NNCF cannot quantise this model ({last_line(error)})") from error
    finally:
        disable_signal_stack()  # NNCF creates many cores
    return Ir.of(quantised)
