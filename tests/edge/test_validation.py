"""Sentences about values that do not fit a configuration."""

from typing import Annotated, Any, Literal

import msgspec
import pytest

from heatline.edge.util.validation import describe_misfit


class Disc(msgspec.Struct, tag="disc", tag_field="kind", forbid_unknown_fields=True):
    radius_mm: Annotated[float, msgspec.Meta(gt=0)]


class Box(msgspec.Struct, tag="box", tag_field="kind", forbid_unknown_fields=True):
    sides_mm: tuple[int, int]
    colour: Literal["red", "blue"] | None = None


class Parts(msgspec.Struct, forbid_unknown_fields=True):
    parts: list[Disc | Box]
    limits: dict[str, Annotated[int, msgspec.Meta(ge=1, le=9)]] = {}
    name: Annotated[str, msgspec.Meta(max_length=5)] | None = None

    def __post_init__(self) -> None:
        if self.name == "never":
            raise ValueError("a part is called never; give it another name")


DISC = {"kind": "disc", "radius_mm": 1.0}


@pytest.mark.parametrize(
    ("values", "excerpt"),
    [
        ({}, "it lacks the key parts; expected parts, limits, name"),
        ({"parts": [3]}, "parts[0] is 3; expected `object`, got `int`"),
        ({"parts": [DISC, {"kind": "cone"}]}, "parts[1].kind is 'cone'; expected one of disc, box"),
        ({"parts": [{}]}, "parts[0] lacks the key kind; expected radius_mm, sides_mm, colour"),
        (
            {"parts": [DISC | {"sides_mm": [1, 2]}]},
            "parts[0] does not know the key sides_mm; expected radius_mm",
        ),
        ({"parts": [DISC | {"radius_mm": -1}]}, "parts[0].radius_mm is -1; expected `float` > 0.0"),
        (
            {"parts": [{"kind": "box", "sides_mm": [1]}]},
            "parts[0].sides_mm is [1]; expected `array` of length 2, got 1",
        ),
        (
            {"parts": [{"kind": "box", "sides_mm": [1, 2], "colour": "green"}]},
            "parts[0].colour is 'green'; expected one of blue, red",
        ),
        ({"parts": [], "limits": {"a": 0}}, "limits[...] is None; expected `int` >= 1"),
        ({"parts": [], "name": "x" * 99}, f"name is '{'x' * 56}...; expected `str` of length <= 5"),
        ({"parts": [], "name": "never"}, "a part is called never; give it another name"),
        ([], "it is []; expected `object`, got `array`"),
    ],
)
def test_a_misfit_names_the_key_its_value_and_what_was_expected(values: Any, excerpt: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(values, Parts)
    assert describe_misfit(raised.value, values, Parts) == excerpt
