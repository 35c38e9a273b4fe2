"""Products of a line: what each is inspected by, where not as the line says. docs/config.md describes every key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge.cameras.settings import CameraSettings, Name, Polygon, check_polygons
from edge.errors import ConfigError

Logit = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""Finite: no logit reaches a threshold of nan or inf, so every frame would be GOOD."""


SET_IN_THE_CAMERA = {"exposure_us", "gain_db", "exposure", "gain"}
"""Keys of cameras that a product may change and that are kept by the camera itself."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ThresholdsConfig(_Table, frozen=True):
    """Thresholds in logits, where not as the bundle's calibration says."""

    score: Logit | None = None
    evidence: Logit | None = None
    check_plausibility: bool | None = None
    """Whether a frame that does not look like the product, as the bundle knows it, gets no verdict; none: it does, or
    of a product: as its line says."""


class ProductCamera(_Table, frozen=True):
    """What a product has otherwise than its line says of a camera; none: as the line says."""

    name: Name
    roi: list[Polygon] | None = None
    exclude: list[Polygon] | None = None
    exposure_us: Annotated[float, Meta(gt=0, le=1e8)] | None = None
    gain_db: Annotated[float, Meta(ge=-100, le=100)] | None = None
    exposure: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    gain: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None

    def told(self) -> dict[str, Any]:
        """What it sets, by key."""
        given = msgspec.structs.asdict(self)
        return {key: value for key, value in given.items() if key != "name" and value is not None}


class ProductConfig(_Table, frozen=True):
    """What one product is inspected by, where not as the line says."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    bundle: Path | None = None
    thresholds: ThresholdsConfig | None = None
    cameras: list[ProductCamera] = []


def in_words(products: Sequence[ProductConfig]) -> str:
    """Their names, for a sentence that says what is expected."""
    return f"one of {', '.join(each.name for each in products)}" if products else "none, as the line has no products"


def check_products(products: Sequence[ProductConfig], first: str | None, cameras: Sequence[CameraSettings]) -> None:
    """What concerns products, and the cameras that they change.

    Args:
        first: which is in force until one is selected.
    Raises:
        ConfigError: what is wrong.
    """
    names = [product.name for product in products]
    if len(set(names)) < len(names):
        raise ConfigError(f"two products have the same name ({', '.join(names)}); names must differ")
    for name in names:
        if not name.isprintable():
            raise ConfigError(f"the name of product {name!a} cannot be printed; expected printable characters")
    if first is None and names:
        raise ConfigError(f"there are products, and none is in force at first; set product to {in_words(products)}")
    if first is not None and first not in names:
        raise ConfigError(f"product is {first!r}; expected {in_words(products)}")
    for product in products:
        _check_product(product, {camera.name: camera for camera in cameras})
    for camera in cameras:
        _check_settings_that_stay(camera, products)


def _check_product(product: ProductConfig, cameras: Mapping[str, CameraSettings]) -> None:
    where, named = f"product {product.name}", [camera.name for camera in product.cameras]
    if len(set(named)) < len(named):
        raise ConfigError(f"{where} names a camera twice ({', '.join(named)}); once is expected")
    for own in product.cameras:
        camera = cameras.get(own.name)
        if camera is None:
            raise ConfigError(f"{where} names camera {own.name}; the line has {', '.join(cameras)}")
        for key in own.told():
            if key not in camera.__struct_fields__:
                kind = type(camera).__struct_config__.tag
                raise ConfigError(f"{where} sets {key} of camera {own.name}, and cameras of kind {kind!r} have none")
        check_polygons(msgspec.structs.replace(camera, **own.told()), f"{where}, ")


def _check_settings_that_stay(camera: CameraSettings, products: Sequence[ProductConfig]) -> None:
    """What one product sets in a camera would stay for another one that says nothing of it."""
    told = {
        product.name: {key for own in product.cameras if own.name == camera.name for key in own.told()}
        for product in products
    }
    for key in sorted(SET_IN_THE_CAMERA & set().union(*told.values())):
        silent = [name for name, keys in told.items() if key not in keys]
        if silent and getattr(camera, key) is None:
            raise ConfigError(
                f"camera {camera.name}: some products set {key}, and {', '.join(silent)} would have it as the product "
                f"before left it; set {key} in [[cameras]] or in every product"
            )
