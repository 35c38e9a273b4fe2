"""Products of a line, with the settings in which each differs from the line. docs/config.md describes every key."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from heatline.edge.cameras.settings import CameraSettings, Name, Polygon, check_polygons
from heatline.edge.errors import ConfigError

Logit = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""A finite threshold: no logit reaches a threshold of nan or inf, so every frame would be GOOD."""

SET_IN_THE_CAMERA = {"exposure_us", "gain_db", "exposure", "gain"}
"""Keys of cameras that a product may change and that the camera itself holds."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ThresholdsConfig(_Table, frozen=True):
    """Thresholds in logits. None: as the bundle's calibration says."""

    score: Logit | None = None
    """A tile whose logit reaches this value makes its frame DEFECT. Default: the bundle's."""
    evidence: Logit | None = None
    """Heatmap cells that reach this value form regions. Default: the bundle's."""
    check_plausibility: bool | None = None
    """Whether a frame that does not look like the product, as the bundle knows it, or has a foreign area, gets
    `NO_VERDICT`. Without this key it does."""


class ProductCamera(_Table, frozen=True):
    """The settings in which a product's camera differs from the line's. None: as the line says."""

    name: Name
    """The camera's name."""
    roi: list[Polygon] | None = None
    """What to inspect of the camera's frames (docs/cameras.md). `[]`: the whole frame."""
    exclude: list[Polygon] | None = None
    """What not to inspect. `[]`: nothing is excluded."""
    exposure_us: Annotated[float, Meta(gt=0, le=1e8)] | None = None
    """Of a `genicam` camera (docs/genicam.md)."""
    gain_db: Annotated[float, Meta(ge=0, le=100)] | None = None
    """Of a `genicam` camera."""
    exposure: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    """Of a `v4l2` camera (docs/cameras.md)."""
    gain: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    """Of a `v4l2` camera."""

    def settings(self) -> dict[str, Any]:
        """Return the values that are set, by key."""
        values = msgspec.structs.asdict(self)
        return {key: value for key, value in values.items() if key != "name" and value is not None}


class ProductConfig(_Table, frozen=True):
    """One product, and the settings in which it differs from the line."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    """The product's name, in requests and in every event."""
    bundle: Path | None = None
    """Folder of the product's bundle. Default: the line's bundle."""
    thresholds: ThresholdsConfig | None = None
    """The product's own thresholds. Default: the line's thresholds; if the product has its own bundle, that bundle's,
    because the line's are logits of another bundle."""
    cameras: list[ProductCamera] = []
    """One per camera whose settings differ for this product. Default of each key below: the camera's own value."""


def describe_products(products: Sequence[ProductConfig]) -> str:
    """Return the products' names for the end of a sentence that says what is expected."""
    return f"one of {', '.join(each.name for each in products)}" if products else "none, as the line has no products"


def check_products(products: Sequence[ProductConfig], first: str | None, cameras: Sequence[CameraSettings]) -> None:
    """Check products, of which `first` is active at first, and the cameras that they change; raise a ConfigError."""
    names = [product.name for product in products]
    if len(set(names)) < len(names):
        raise ConfigError(f"two products have the same name ({', '.join(names)}); names must differ")
    for name in names:
        if not name.isprintable():
            raise ConfigError(f"the name of product {name!a} cannot be printed; expected printable characters")
    if first is None and names:
        raise ConfigError(
            f"the line has products, but none is active at first; set product to {describe_products(products)}"
        )
    if first is not None and first not in names:
        raise ConfigError(f"product is {first!r}; expected {describe_products(products)}")
    by_name = {camera.name: camera for camera in cameras}
    set_keys: dict[str, dict[str, set[str]]] = {camera: {name: set() for name in names} for camera in by_name}
    for product in products:
        where, own_names = f"product {product.name}", [camera.name for camera in product.cameras]
        if len(set(own_names)) < len(own_names):
            raise ConfigError(f"{where} names a camera twice ({', '.join(own_names)}); expected once")
        for own in product.cameras:
            if (camera := by_name.get(own.name)) is None:
                raise ConfigError(f"{where} names camera {own.name}; the line has {', '.join(by_name)}")
            for key in own.settings():
                if key not in camera.__struct_fields__:
                    kind = type(camera).__struct_config__.tag
                    raise ConfigError(
                        f"{where} sets {key} of camera {own.name}, but cameras of kind {kind!r} do not have this key"
                    )
            check_polygons(msgspec.structs.replace(camera, **own.settings()), f"{where}, ")
            set_keys[own.name][product.name] = own.settings().keys() & SET_IN_THE_CAMERA
    # A value that one product sets in a camera would stay for a product that sets none.
    for camera in cameras:
        keys_of = set_keys[camera.name]
        for key in sorted(set().union(*keys_of.values())):
            without_key = [name for name, keys in keys_of.items() if key not in keys]
            if without_key and getattr(camera, key) is None:
                raise ConfigError(
                    f"camera {camera.name}: some products set {key}, so {', '.join(without_key)} would keep the value "
                    f"of the product before; set {key} in [[cameras]] or in every product"
                )
