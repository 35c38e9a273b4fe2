"""Bindings (ctypes) to the system's Aravis library for GigE Vision and USB3 Vision cameras.

Objects of the library are represented by their addresses. Functions release the GIL while they run.
"""

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any, Final, Generic, TypeVar, cast

from heatline.edge.errors import CameraError, MissingExtraError

LIBRARY = "libaravis-0.8.so.0"
_GOBJECT: Final = "libgobject-2.0.so.0"

R = TypeVar("R")


class AravisError(Exception):
    """An error that the library reported."""


class _GError(ctypes.Structure):
    _fields_ = (("domain", c_uint32), ("code", c_int), ("message", c_char_p))


def load(library: str | None = None) -> ctypes.CDLL:
    """Return the library, which is loaded once.

    Raises:
        MissingExtraError: the library is not installed.
    """
    name = library or LIBRARY
    try:
        return _load(name)
    except OSError as error:
        raise MissingExtraError(
            f"GigE Vision and USB3 Vision cameras need the system's Aravis library, and {name} cannot be loaded "
            f"({error}); install it: apt install libaravis-0.8-0"
        ) from error


@functools.cache
def _load(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(name)


class Function(Generic[R]):
    """One function of the library, looked up at its first call. Converts between str and UTF-8.

    Args:
        result: C type of the result; None: no result.
        arguments: C types of the arguments.
        fails: whether the function takes a GError, which is raised as AravisError.
    """

    def __init__(self, name: str, result: Any, *arguments: Any, fails: bool = True, library: str | None = None) -> None:
        self._name, self._result, self._arguments = name, result, arguments
        self._fails, self._library = fails, library

    def __call__(self, *values: Any) -> R:
        arguments = [value.encode() if isinstance(value, str) else value for value in values]
        if not self._fails:
            return self._decode(self._bound(*arguments))
        error = POINTER(_GError)()
        result = self._bound(*arguments, byref(error))
        if error:
            message = error.contents.message.decode(errors="replace")
            _error_free(error)
            raise AravisError(message)
        return self._decode(result)

    @functools.cached_property
    def _bound(self) -> Any:
        try:
            function = getattr(load(self._library), self._name)
        except AttributeError as error:
            raise CameraError(
                f"the installed {LIBRARY} is too old: it has no {self._name}; install Aravis 0.8.34, which has it"
            ) from error
        function.restype = self._result
        function.argtypes = [*self._arguments, *([POINTER(POINTER(_GError))] if self._fails else [])]
        return function

    @staticmethod
    def _decode(result: Any) -> R:
        return cast(R, result.decode(errors="replace") if isinstance(result, bytes) else result)


_error_free = Function[None]("g_error_free", None, POINTER(_GError), fails=False, library="libglib-2.0.so.0")
_free = Function[None]("g_free", None, c_void_p, fails=False, library="libglib-2.0.so.0")
unref = Function[None]("g_object_unref", None, c_void_p, fails=False, library=_GOBJECT)
_is_a = Function[int]("g_type_check_instance_is_a", c_int, c_void_p, c_size_t, fails=False, library=_GOBJECT)
_connect = Function[int](
    "g_signal_connect_data", c_size_t, c_void_p, c_char_p, c_void_p, c_void_p, c_void_p, c_int,
    fails=False, library=_GOBJECT,
)  # fmt: skip

# Discovery.

update_device_list = Function[None]("arv_update_device_list", None, fails=False)
get_n_devices = Function[int]("arv_get_n_devices", c_uint, fails=False)
get_device_id = Function[str | None]("arv_get_device_id", c_char_p, c_uint, fails=False)
get_device_vendor = Function[str | None]("arv_get_device_vendor", c_char_p, c_uint, fails=False)
get_device_model = Function[str | None]("arv_get_device_model", c_char_p, c_uint, fails=False)
get_device_serial = Function[str | None]("arv_get_device_serial_nbr", c_char_p, c_uint, fails=False)
get_device_address = Function[str | None]("arv_get_device_address", c_char_p, c_uint, fails=False)
get_device_physical_id = Function[str | None]("arv_get_device_physical_id", c_char_p, c_uint, fails=False)
get_device_protocol = Function[str | None]("arv_get_device_protocol", c_char_p, c_uint, fails=False)
set_discovery_interface = Function[None](
    "arv_gv_interface_set_discovery_interface_name", None, c_char_p, fails=False
)  # Aravis 0.8.34

# A camera and its features.

camera_new = Function[int]("arv_camera_new", c_void_p, c_char_p)
camera_device = Function[int]("arv_camera_get_device", c_void_p, c_void_p, fails=False)
camera_is_gige = Function[int]("arv_camera_is_gv_device", c_int, c_void_p, fails=False)
camera_vendor = Function[str | None]("arv_camera_get_vendor_name", c_char_p, c_void_p)
camera_model = Function[str | None]("arv_camera_get_model_name", c_char_p, c_void_p)
camera_serial = Function[str | None]("arv_camera_get_device_serial_number", c_char_p, c_void_p)
camera_has = Function[int]("arv_camera_is_feature_available", c_int, c_void_p, c_char_p)
camera_set_text = Function[None]("arv_camera_set_string", None, c_void_p, c_char_p, c_char_p)
camera_get_text = Function[str | None]("arv_camera_get_string", c_char_p, c_void_p, c_char_p)
camera_set_boolean = Function[None]("arv_camera_set_boolean", None, c_void_p, c_char_p, c_int)
camera_set_float = Function[None]("arv_camera_set_float", None, c_void_p, c_char_p, c_double)
camera_set_region = Function[None]("arv_camera_set_region", None, c_void_p, c_int, c_int, c_int, c_int)
camera_get_region = Function[None]("arv_camera_get_region", None, c_void_p, *[POINTER(c_int)] * 4)
camera_width_bounds = Function[None]("arv_camera_get_width_bounds", None, c_void_p, *[POINTER(c_int)] * 2)
camera_height_bounds = Function[None]("arv_camera_get_height_bounds", None, c_void_p, *[POINTER(c_int)] * 2)
camera_set_pixel_format = Function[None]("arv_camera_set_pixel_format", None, c_void_p, c_uint32)
camera_get_pixel_format = Function[int]("arv_camera_get_pixel_format", c_uint32, c_void_p)
camera_pixel_format_name = Function[str | None]("arv_camera_get_pixel_format_as_string", c_char_p, c_void_p)
_camera_pixel_formats = Function[int]("arv_camera_dup_available_pixel_formats", c_void_p, c_void_p, POINTER(c_uint))
camera_has_exposure = Function[int]("arv_camera_is_exposure_time_available", c_int, c_void_p)
camera_set_exposure = Function[None]("arv_camera_set_exposure_time", None, c_void_p, c_double)
camera_get_exposure = Function[float]("arv_camera_get_exposure_time", c_double, c_void_p)
camera_exposure_bounds = Function[None]("arv_camera_get_exposure_time_bounds", None, c_void_p, *[POINTER(c_double)] * 2)
camera_has_gain = Function[int]("arv_camera_is_gain_available", c_int, c_void_p)
camera_set_gain = Function[None]("arv_camera_set_gain", None, c_void_p, c_double)
camera_get_gain = Function[float]("arv_camera_get_gain", c_double, c_void_p)
camera_gain_bounds = Function[None]("arv_camera_get_gain_bounds", None, c_void_p, *[POINTER(c_double)] * 2)
camera_has_frame_rate = Function[int]("arv_camera_is_frame_rate_available", c_int, c_void_p)
camera_set_frame_rate = Function[None]("arv_camera_set_frame_rate", None, c_void_p, c_double)
camera_get_frame_rate = Function[float]("arv_camera_get_frame_rate", c_double, c_void_p)
camera_frame_rate_bounds = Function[None]("arv_camera_get_frame_rate_bounds", None, c_void_p, *[POINTER(c_double)] * 2)
camera_set_trigger = Function[None]("arv_camera_set_trigger", None, c_void_p, c_char_p)
camera_clear_triggers = Function[None]("arv_camera_clear_triggers", None, c_void_p)
camera_software_trigger = Function[None]("arv_camera_software_trigger", None, c_void_p)
camera_set_chunks = Function[None]("arv_camera_set_chunks", None, c_void_p, c_char_p)
camera_chunk_parser = Function[int]("arv_camera_create_chunk_parser", c_void_p, c_void_p, fails=False)
camera_payload = Function[int]("arv_camera_get_payload", c_uint, c_void_p)
camera_create_stream = Function[int | None]("arv_camera_create_stream", c_void_p, c_void_p, c_void_p, c_void_p)
camera_start = Function[None]("arv_camera_start_acquisition", None, c_void_p)
camera_stop = Function[None]("arv_camera_stop_acquisition", None, c_void_p)
_camera_choices = Function[int](
    "arv_camera_dup_available_enumerations_as_strings", c_void_p, c_void_p, c_char_p, POINTER(c_uint)
)

# Features of GigE Vision only.

camera_set_packet_size = Function[None]("arv_camera_gv_set_packet_size", None, c_void_p, c_int)
camera_get_packet_size = Function[int]("arv_camera_gv_get_packet_size", c_uint, c_void_p)
camera_negotiate_packet_size = Function[int]("arv_camera_gv_auto_packet_size", c_uint, c_void_p)
device_is_controller = Function[int]("arv_gv_device_is_controller", c_int, c_void_p, fails=False)

# A camera's device: access by address.

_device_read_register = Function[int]("arv_device_read_register", c_int, c_void_p, c_uint64, POINTER(c_uint32))
_device_read_memory = Function[int]("arv_device_read_memory", c_int, c_void_p, c_uint64, c_uint32, c_void_p)
_device_feature = Function[int | None]("arv_device_get_feature", c_void_p, c_void_p, c_char_p, fails=False)

# A stream of buffers.

stream_push = Function[None]("arv_stream_push_buffer", None, c_void_p, c_void_p, fails=False)
stream_pop = Function[int | None]("arv_stream_timeout_pop_buffer", c_void_p, c_void_p, c_uint64, fails=False)
_stream_n_counters = Function[int]("arv_stream_get_n_infos", c_uint, c_void_p, fails=False)
_stream_counter_name = Function[str]("arv_stream_get_info_name", c_char_p, c_void_p, c_uint, fails=False)
_stream_counter = Function[int]("arv_stream_get_info_uint64_by_name", c_uint64, c_void_p, c_char_p, fails=False)
_set_integer_property = Function[None](
    "g_object_set", None, c_void_p, c_char_p, c_int, c_void_p, fails=False, library=_GOBJECT
)

# A buffer. The functions for its image require the status SUCCESS.

buffer_new = Function[int]("arv_buffer_new", c_void_p, c_size_t, c_void_p, fails=False)
buffer_status = Function[int]("arv_buffer_get_status", c_int, c_void_p, fails=False)
buffer_frame_id = Function[int]("arv_buffer_get_frame_id", c_uint64, c_void_p, fails=False)
buffer_set_frame_id = Function[None]("arv_buffer_set_frame_id", None, c_void_p, c_uint64, fails=False)
buffer_timestamp = Function[int]("arv_buffer_get_timestamp", c_uint64, c_void_p, fails=False)
buffer_set_timestamp = Function[None]("arv_buffer_set_timestamp", None, c_void_p, c_uint64, fails=False)
buffer_system_timestamp = Function[int]("arv_buffer_get_system_timestamp", c_uint64, c_void_p, fails=False)
buffer_set_system_timestamp = Function[None]("arv_buffer_set_system_timestamp", None, c_void_p, c_uint64, fails=False)
buffer_n_parts = Function[int]("arv_buffer_get_n_parts", c_uint, c_void_p, fails=False)
buffer_part_type = Function[int]("arv_buffer_get_part_data_type", c_int, c_void_p, c_uint, fails=False)
_buffer_part_data = Function[int](
    "arv_buffer_get_part_data", c_void_p, c_void_p, c_uint, POINTER(c_size_t), fails=False
)
buffer_width = Function[int]("arv_buffer_get_image_width", c_int, c_void_p, fails=False)
buffer_height = Function[int]("arv_buffer_get_image_height", c_int, c_void_p, fails=False)
buffer_pixel_format = Function[int]("arv_buffer_get_image_pixel_format", c_uint32, c_void_p, fails=False)
_buffer_padding = Function[None]("arv_buffer_get_image_padding", None, c_void_p, *[POINTER(c_int)] * 2, fails=False)
buffer_has_chunks = Function[int]("arv_buffer_has_chunks", c_int, c_void_p, fails=False)
IMAGE_PART: Final = 1
"""Type of a part that is a 2D image."""
SUCCESS: Final = 0
STATUSES: Final = {
    -1: "unknown",
    0: "success",
    1: "cleared",
    2: "timeout",
    3: "missing-packets",
    4: "wrong-packet-id",
    5: "size-mismatch",
    6: "filling",
    7: "aborted",
    8: "payload-not-supported",
}

# Numbers in a buffer's chunks.

ChunkReader = Function[float] | Function[int]
_chunk_float = Function[float]("arv_chunk_parser_get_float_value", c_double, c_void_p, c_void_p, c_char_p)
_chunk_integer = Function[int]("arv_chunk_parser_get_integer_value", c_int64, c_void_p, c_void_p, c_char_p)
_chunk_boolean = Function[int]("arv_chunk_parser_get_boolean_value", c_int, c_void_p, c_void_p, c_char_p)
_CHUNK_READERS: Final = (
    (Function[int]("arv_gc_float_get_type", c_size_t, fails=False), _chunk_float),
    (Function[int]("arv_gc_integer_get_type", c_size_t, fails=False), _chunk_integer),
    (Function[int]("arv_gc_boolean_get_type", c_size_t, fails=False), _chunk_boolean),
)

_CONTROL_LOST: Final = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)


def choices(camera: int, feature: str) -> list[str]:
    """Return the values that an enumeration offers now."""
    count = c_uint()
    names = _camera_choices(camera, feature, byref(count))
    try:
        texts = ctypes.cast(names, POINTER(c_char_p))
        return [(texts[index] or b"").decode(errors="replace") for index in range(count.value)]
    finally:
        _free(names)


def pixel_formats(camera: int) -> list[int]:
    """Return the codes of the pixel formats that the camera offers now."""
    count = c_uint()
    codes = _camera_pixel_formats(camera, byref(count))
    try:
        values = ctypes.cast(codes, POINTER(c_int64))
        return [values[index] & 0xFFFFFFFF for index in range(count.value)]
    finally:
        _free(codes)


def bounds(function: Function[None], camera: int) -> tuple[float, float]:
    """Return the lowest and the highest value that a feature accepts now."""
    low, high = c_double(), c_double()
    function(camera, byref(low), byref(high))
    return low.value, high.value


def integer_bounds(function: Function[None], camera: int) -> tuple[int, int]:
    """Return the lowest and the highest value that a feature accepts now."""
    low, high = c_int(), c_int()
    function(camera, byref(low), byref(high))
    return low.value, high.value


def region(camera: int) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the camera's region, px."""
    x, y, width, height = c_int(), c_int(), c_int(), c_int()
    camera_get_region(camera, byref(x), byref(y), byref(width), byref(height))
    return x.value, y.value, width.value, height.value


def read_register(device: int, address: int) -> int:
    """Return the value of a GigE Vision bootstrap register."""
    value = c_uint32()
    _device_read_register(device, address, byref(value))
    return value.value


def read_memory(device: int, address: int, size: int) -> bytes:
    """Read bytes of the device's memory, without a cache."""
    memory = ctypes.create_string_buffer(size)
    _device_read_memory(device, address, size, memory)
    return memory.raw


def on_control_lost(device: int, callback: Callable[[], object]) -> object:
    """Call `callback`, on a thread of the library, when control of the device is lost.

    Returns:
        an object that must stay referenced until the device is released.
    """
    c_callback = _CONTROL_LOST(lambda _device, _data: callback())
    _connect(device, "control-lost", ctypes.cast(c_callback, c_void_p), None, None, 0)
    return c_callback


def set_property(instance: int, name: str, value: int) -> None:
    """Set an object's property that is an integer or an enumeration."""
    _set_integer_property(instance, name, value, None)


def counters(stream: int) -> dict[str, int]:
    """Return the integer counters of a stream, by the library's names."""
    names = [_stream_counter_name(stream, index) for index in range(_stream_n_counters(stream))]
    return {name: _stream_counter(stream, name) for name in names if name.startswith("n_")}


def part_data(buffer: int, part: int) -> tuple[int, int]:
    """Return the address and the size in bytes of a part of a buffer."""
    size = c_size_t()
    return _buffer_part_data(buffer, part, byref(size)), size.value


def line_padding(buffer: int) -> int:
    """Return the number of padding bytes after each line of a buffer's image."""
    x, y = c_int(), c_int()
    _buffer_padding(buffer, byref(x), byref(y))
    return x.value


def chunk_reader(device: int, feature: str) -> ChunkReader | None:
    """Return the function that reads a chunk's value from parser, buffer and feature; None: it is not a number."""
    node = _device_feature(device, feature)
    if not node:
        return None
    return next((reader for kind, reader in _CHUNK_READERS if _is_a(node, kind())), None)
