"""Counts the arrays that numpy makes, also those that are gone again at once, which `tracemalloc` does not tell.

By numpy's own hook for memory (NEP 49), of which Python sees nothing but its C functions. It holds for the thread that
asks for it, and slows it down: what is counted is not timed. With a numpy that is not known here this module raises
ImportError rather than calling who knows what.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

_SET_HANDLER = 304
"""Where `PyDataMem_SetHandler` stands in the table of C functions of the numpy that is known here."""
KNOWN_NUMPY = (2,)
"""Major versions. Within one, the table only ever grows at its end."""

if int(np.__version__.split(".")[0]) not in KNOWN_NUMPY:
    raise ImportError(f"numpy {np.__version__} is not known; expected {' or '.join(map(str, KNOWN_NUMPY))}.x")


@dataclass
class ArrayAllocations:
    """Those of arrays' data."""

    count: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.count += 1
        self.bytes += size


@contextmanager
def counted_arrays() -> Iterator[ArrayAllocations]:
    """Count what this thread allocates for arrays meanwhile."""
    global _counting
    _counting = found = ArrayAllocations()
    before = _set_handler(_handler_capsule)
    try:
        yield found
    finally:
        _set_handler(before)


_counting = ArrayAllocations()

_c_library = ctypes.CDLL(None)
for _name, _arguments in {"malloc": 1, "calloc": 2}.items():
    getattr(_c_library, _name).restype = ctypes.c_void_p
    getattr(_c_library, _name).argtypes = [ctypes.c_size_t] * _arguments
_c_library.realloc.restype, _c_library.realloc.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]
_c_library.free.restype, _c_library.free.argtypes = None, [ctypes.c_void_p]

_Malloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Calloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_Realloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Free = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def _malloc(_context: int | None, size: int) -> int | None:
    _counting.add(size)
    found: int | None = _c_library.malloc(size)
    return found


def _calloc(_context: int | None, elements: int, size: int) -> int | None:
    _counting.add(elements * size)
    found: int | None = _c_library.calloc(elements, size)
    return found


def _realloc(_context: int | None, pointer: int | None, size: int) -> int | None:
    _counting.add(size)
    found: int | None = _c_library.realloc(pointer, size)
    return found


def _free(_context: int | None, pointer: int | None, _size: int) -> None:
    _c_library.free(pointer)


class _Allocator(ctypes.Structure):
    _fields_ = (
        ("context", ctypes.c_void_p),
        ("malloc", _Malloc),
        ("calloc", _Calloc),
        ("realloc", _Realloc),
        ("free", _Free),
    )


class _Handler(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("allocator", _Allocator))


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_pointer_in = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_in.restype, _pointer_in.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

# All of it lives as long as the process: an array is freed by the handler that it was made with, whenever that is.
_allocator = _Allocator(None, _Malloc(_malloc), _Calloc(_calloc), _Realloc(_realloc), _Free(_free))
_handler = _Handler(b"counted", 1, _allocator)
_capsule_name = b"mem_handler"
_handler_capsule = _new_capsule(ctypes.addressof(_handler), _capsule_name, None)
_functions = ctypes.cast(_pointer_in(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
_set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(_functions[_SET_HANDLER] or 0)
