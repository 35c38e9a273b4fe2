"""The reference pictures that an inspection compares frames with."""

from collections.abc import Iterable

from msgspec import UNSET

from heatline.edge.bundle import Bundle
from heatline.edge.errors import BundleError
from heatline.edge.reference.reference import Reference

ANY_CAMERA = ""
"""Key of the reference for all cameras that have none of their own."""


def product_references(bundle: Bundle, cameras: Iterable[str] = (ANY_CAMERA,)) -> dict[str, Reference]:
    """Read the references of a bundle by camera, ready for the first frame; none: its graph compares nothing.

    Raises:
        BundleError: the graph compares, and there is no reference for a camera; or a picture does not fit the manifest.
    """
    if bundle.manifest.tensors.difference is UNSET:
        return {}
    references = bundle.references()
    missing = [camera for camera in cameras if camera not in references and ANY_CAMERA not in references]
    if missing:
        raise BundleError(
            f"{bundle.path} compares frames with a reference picture, and has none"
            f"{' for camera ' + ', '.join(missing) if any(missing) else ''}"
            f"{' but those of single cameras' if references and not any(missing) else ''}; make one from good frames "
            "with heatline bundle set-reference"
        )
    for reference in references.values():
        _ = reference.aligner, reference.range.planes
    return references
