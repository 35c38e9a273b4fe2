"""YAML of a run's files, with PyYAML's own reader and writer.

libyaml, which msgspec uses, refuses a file name that is not UTF-8. PyYAML's writer escapes its bytes, and its reader
restores them.
"""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def encode_yaml(value: object) -> bytes:
    """Encode a struct as YAML in UTF-8."""
    import yaml  # of the extra `train`; help and other commands work without it

    text: str = yaml.dump(msgspec.to_builtins(value), Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def decode_yaml(data: bytes, kind: type[T]) -> T:
    """Decode the output of `encode_yaml`.

    Raises:
        msgspec.MsgspecError: it is no YAML, or does not match `kind`.
    """
    import yaml

    try:
        values = yaml.load(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return msgspec.convert(values, kind)
