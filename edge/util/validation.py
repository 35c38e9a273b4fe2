"""What does not fit a configuration, in a sentence: which key, what it is, what was expected."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect

LONGEST_VALUE = 60
"""Characters of a wrong value that are shown."""
_PLACE = re.compile(r" - at `(key in )?\$(?P<path>[^`]*)`\Z")
_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>[0-9]+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(?P<key>.+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.+)`")


def describe_misfit(error: msgspec.ValidationError, values: Any, kind: Any) -> str:
    """Say in the words of the configuration what msgspec found wrong in values that were to be converted to a type.

    Args:
        error: as `msgspec.convert(values, kind)` raised it.

    >>> from typing import Annotated
    >>> class Camera(msgspec.Struct):
    ...     rate_fps: Annotated[float, msgspec.Meta(gt=0)]
    >>> values = {"rate_fps": 0}
    >>> try:
    ...     msgspec.convert(values, Camera)
    ... except msgspec.ValidationError as error:
    ...     print(describe_misfit(error, values, Camera))
    rate_fps is 0; expected a number above 0
    """
    place = _PLACE.search(str(error))
    problem = _PLACE.sub("", str(error))
    path = "" if place is None else place["path"]
    value, types, name = _follow(path, values, inspect.type_info(kind))
    if (missing := _MISSING.fullmatch(problem)) is not None:
        key = missing["key"]
        return f"{name or 'it'} has no key {key}; expected {_describe_any(_under(types, key))}"
    if (unknown := _UNKNOWN.fullmatch(problem)) is not None:
        keys = [field for each in _structs(types, value) for field in _fields(each)]
        return f"{name or 'it'} has a key {unknown['key']}, which does not exist; expected {_one_of(keys)}"
    if not problem.startswith(("Expected ", "Invalid ", "Number ")):  # a sentence of our own, from a `__post_init__`
        return problem
    is_what = "does not fit" if "[...]" in path else f"is {_shown(value)}"  # of which key, msgspec does not say
    return f"{name or 'it'} {is_what}; expected {_describe_any(types)}"


def _follow(path: str, value: Any, kind: inspect.Type) -> tuple[Any, list[inspect.Type], str]:
    """What lies at a path of msgspec's, the types that may stand there, and the place's name."""
    types, name, owners = [kind], "", ""
    for step in _STEP.finditer(path):
        key, index = step["key"], step["index"]
        if key is not None:
            types = _under(types, key, value)
            value = value.get(key) if isinstance(value, dict) else None
            name = f"{name}.{key}" if name else key
            continue
        at = int(index) if index.isdigit() else 0
        types = [item for each in types for item in _items(each, at)]
        value = value[at] if isinstance(value, Sequence) and at < len(value) else None
        if isinstance(value, dict):  # a table of several: it has a name, or a number
            called = value.get("name")
            called = called if isinstance(called, str) and called.isprintable() else f"number {at + 1}"
            owners = f" of {name.removesuffix('s')} {called}{owners}"
            name = ""
        else:
            name = f"{name}[{index}]"
    return value, types, f"{name}{owners}" if name else owners.removeprefix(" of ")


def _structs(types: Sequence[inspect.Type], value: Any) -> list[inspect.StructType]:
    """Those of the types that a table may be: by its tag, where it has a valid one."""
    structs = [each for each in _flat(types) if isinstance(each, inspect.StructType)]
    tags = value if isinstance(value, dict) else {}
    chosen = [each for each in structs if each.tag_field in tags and each.tag == tags[each.tag_field]]
    return chosen or structs


def _under(types: Sequence[inspect.Type], key: str, value: Any = None) -> list[inspect.Type]:
    """The types of a key of a table."""
    found: list[inspect.Type] = []
    for struct in _structs(types, value):
        if key == struct.tag_field:
            found.append(inspect.LiteralType((struct.tag,)))
        found += [field.type for field in struct.fields if field.encode_name == key]
    return found or [each.value_type for each in _flat(types) if isinstance(each, inspect.DictType)]


def _fields(struct: inspect.StructType) -> list[str]:
    tag = [] if struct.tag_field is None else [struct.tag_field]
    return tag + [field.encode_name for field in struct.fields]


def _items(kind: inspect.Type, index: int) -> Iterator[inspect.Type]:
    for each in _flat([kind]):
        if isinstance(each, inspect.ListType):
            yield each.item_type
        elif isinstance(each, inspect.DictType):
            yield each.value_type
        elif isinstance(each, inspect.TupleType) and index < len(each.item_types):
            yield each.item_types[index]


def _flat(types: Sequence[inspect.Type]) -> Iterator[inspect.Type]:
    """Types without unions and what is noted beside them."""
    for each in types:
        if isinstance(each, inspect.UnionType):
            yield from _flat(each.types)
        elif isinstance(each, inspect.Metadata) and "description" not in (each.extra_json_schema or {}):
            yield from _flat([each.type])
        else:
            yield each


def _describe_any(types: Sequence[inspect.Type]) -> str:
    """What is expected where each of these may stand; that a key may be left out goes without saying."""
    flat = list(_flat(types))
    choices = [choice for each in flat if isinstance(each, inspect.LiteralType) for choice in each.values]
    others = [_describe(each) for each in flat if not isinstance(each, inspect.LiteralType | inspect.NoneType)]
    expected = dict.fromkeys(([_one_of(choices)] if choices else []) + others)
    return ", or ".join(expected) or "nothing"


def _describe(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata(extra_json_schema=schema) if schema:
            return str(schema["description"])
        case inspect.UnionType() | inspect.LiteralType() | inspect.Metadata():
            return _describe_any([kind])
        case inspect.IntType():
            return f"a whole number{_limits(kind)}"
        case inspect.FloatType():
            return f"a number{_limits(kind)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType(pattern=pattern) if pattern:
            return f"a text that fits {pattern}"
        case inspect.StrType():
            return f"a text{_lengths(kind, 'character')}"
        case inspect.ListType():
            return f"a list{_lengths(kind, 'item')}, each {_describe(kind.item_type)}"
        case inspect.TupleType():
            items = dict.fromkeys(map(_describe, kind.item_types))
            return f"a list of {len(kind.item_types)}, each {', or '.join(items)}"
        case inspect.StructType() | inspect.DictType():
            return "a table"
        case inspect.CustomType():
            return f"a {kind.cls.__name__.lower()}"
        case _:
            return "nothing else"


def _limits(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {_plain(kind.ge)} to {_plain(kind.le)}"
    limits = {"above": kind.gt, "of at least": kind.ge, "below": kind.lt, "at most": kind.le}
    words = ", ".join(f"{word} {_plain(limit)}" for word, limit in limits.items() if limit is not None)
    return f" {words}" if words else ""


def _plain(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:g}"


def _lengths(kind: inspect.StrType | inspect.ListType, noun: str) -> str:
    least, most = kind.min_length, kind.max_length
    if least is None and most is None:
        return ""
    if most is None:
        return f" of {least} or more {noun}s"
    return f" of {least or 0} to {most} {noun}s"


def _one_of(choices: Sequence[object]) -> str:
    names = [str(choice) for choice in dict.fromkeys(choices)]
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def _shown(value: Any) -> str:
    """A value as a configuration writes it, cut where it is long."""
    match value:
        case dict():
            return "a table"
        case None:
            return "empty"
        case bool():
            return str(value).lower()
    return text if len(text := repr(value)) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
