"""YAML of a run's files, by PyYAML's own reader and writer.

libyaml, which msgspec uses, takes no file name that is not UTF-8: these write its bytes as escapes and read them back.
"""

from typing import TypeVar

import msgspec
import yaml

T = TypeVar("T")


def encode_yaml(value: object) -> bytes:
    """Encode a struct as YAML in UTF-8."""
    text: str = yaml.dump(msgspec.to_builtins(value), Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def decode_yaml(data: bytes, kind: type[T]) -> T:
    """Decode what `encode_yaml` wrote.

    Raises:
        msgspec.MsgspecError: it is no YAML, or does not fit the kind.
    """
    try:
        values = yaml.load(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return msgspec.convert(values, kind)
