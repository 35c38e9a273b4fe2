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
        ({}, "it has no key parts; expected a list, each a table"),
        ({"parts": [3]}, "parts[0] is 3; expected a table"),
        ({"parts": [DISC, {"kind": "cone"}]}, "kind of part number 2 is 'cone'; expected one of disc, box"),
        ({"parts": [{}]}, "part number 1 has no key kind; expected one of disc, box"),
        ({"parts": [DISC | {"radius_mm": -1}]}, "radius_mm of part number 1 is -1; expected a number above 0"),
        (
            {"parts": [{"kind": "box", "sides_mm": [1]}]},
            "sides_mm of part number 1 is [1]; expected a list of 2, each a whole number",
        ),
        (
            {"parts": [{"kind": "box", "sides_mm": [1, 2], "colour": "green"}]},
            "colour of part number 1 is 'green'; expected one of blue, red",
        ),
        (
            {"parts": [DISC | {"sides_mm": [1, 2]}]},
            "part number 1 has a key sides_mm, which does not exist; expected one of kind, radius_mm",
        ),
        ({"parts": [], "limits": {"a": 0}}, "limits[...] does not fit; expected a whole number from 1 to 9"),
        ({"parts": [], "name": "x" * 99}, f"name is '{'x' * 56}...; expected a text of 0 to 5 characters"),
        ({"parts": [], "name": True}, "name is true; expected a text of 0 to 5 characters"),
        ({"parts": [], "name": "never"}, "a part is called never; give it another name"),
        ([], "it is []; expected a table"),
    ],
)
def test_a_misfit_names_the_key_its_value_and_what_was_expected(values: Any, excerpt: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(values, Parts)
    assert describe_misfit(raised.value, values, Parts) == excerpt
