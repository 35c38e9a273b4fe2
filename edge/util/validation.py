"""What does not fit a configuration, in a sentence: which key, what it is, what was expected."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

LONGEST_VALUE = 60
"""Characters of a wrong value that are shown."""
_PLACE = re.compile(r" - at `(key in )?\$(?P<path>[^`]*)`\Z")
_KEY = re.compile(r"Object (missing required|contains unknown) field `(.+)`")
_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>[0-9]+|\.\.\.)\]")


def describe_misfit(error: msgspec.ValidationError, values: Any, kind: Any) -> str:
    """Say in msgspec's words what it found wrong in values that were to be converted to a type, and add what it does
    not tell: the wrong value, the names of tables, and the choices.

    >>> from typing import Annotated
    >>> class Camera(msgspec.Struct):
    ...     rate_fps: Annotated[float, msgspec.Meta(gt=0)]
    >>> values = {"rate_fps": 0}
    >>> try:
    ...     msgspec.convert(values, Camera)
    ... except msgspec.ValidationError as error:
    ...     print(describe_misfit(error, values, Camera))
    rate_fps is 0; expected `float` > 0.0
    """
    place, problem = _PLACE.search(str(error)), _PLACE.sub("", str(error))
    name, types = "", list(_flat([inspect.type_info(kind)], values))
    for step in _STEP.finditer("" if place is None else place["path"]):
        below = [each for one in types for each in _below(one, step["key"])]
        try:
            values = values[step["key"] or int(step["index"])]
        except (KeyError, TypeError, ValueError):  # of a dict's value, msgspec does not tell which
            values = None
        types = list(_flat(below, values))
        called = values.get("name") if isinstance(values, dict) else None
        called = called if isinstance(called, str) and called.isprintable() else step["index"]
        name += f".{step['key']}" if step["key"] else f"[{called}]"
    name = name.removeprefix(".") or "it"
    if (key := _KEY.fullmatch(problem)) is not None:
        keys = [field.encode_name for each in types if isinstance(each, inspect.StructType) for field in each.fields]
        wrong = "lacks the key" if key[1] == "missing required" else "does not know the key"
        return f"{name} {wrong} {key[2]}; expected {', '.join(keys)}"
    if not problem.startswith(("Expected ", "Invalid ", "Number ")):  # our own sentence, from a `__post_init__`
        return problem
    choices = [str(one) for each in types if isinstance(each, inspect.LiteralType) for one in each.values]
    schemas = [each.extra_json_schema or {} for each in types if isinstance(each, inspect.Metadata)]
    expected = [str(each["description"]) for each in schemas]
    if choices and problem.startswith("Invalid "):
        expected = [f"one of {', '.join(choices)}"]
    shown = repr(values)
    shown = shown if len(shown) <= LONGEST_VALUE else f"{shown[: LONGEST_VALUE - 3]}..."
    return f"{name} is {shown}; expected {', or '.join(expected) or problem.removeprefix('Expected ')}"


def _below(kind: inspect.Type, key: str | None) -> Iterator[inspect.Type]:
    """Yield the types of a key of a table, or of the items of a list or dict."""
    match kind:
        case inspect.StructType():
            yield from (field.type for field in kind.fields if field.encode_name == key)
            if key == kind.tag_field:
                yield inspect.LiteralType((kind.tag,))
        case inspect.DictType():
            yield kind.value_type
        case inspect.ListType():
            yield kind.item_type
        case inspect.TupleType():
            yield from kind.item_types[:1]


def _flat(types: Any, value: Any) -> Iterator[inspect.Type]:
    """Yield the types that a value may have, without unions, and of tagged tables the one with the value's tag, if any
    has it; what is described stays with its description.
    """
    flat: list[inspect.Type] = []
    for each in types:
        if isinstance(each, inspect.UnionType):
            flat += _flat(each.types, value)
        elif isinstance(each, inspect.Metadata) and "description" not in (each.extra_json_schema or {}):
            flat += _flat([each.type], value)
        else:
            flat.append(each)
    tags = value if isinstance(value, dict) else {}
    tagged = [each for each in flat if isinstance(each, inspect.StructType) and each.tag == tags.get(each.tag_field)]
    yield from [each for each in tagged if each.tag is not None] or flat
