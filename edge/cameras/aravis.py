"""Bindings (ctypes) to the system's Aravis library for GigE Vision and USB3 Vision cameras.

`aravis.camera_start_acquisition(camera)` calls `arv_camera_start_acquisition`; the tables below hold the types of each
function. Objects of the library are represented by their addresses. Functions release the GIL while they run.
"""

import ctypes
import functools
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any, Final

from heatline.edge.errors import CameraError, MissingExtraError

LIBRARY = "libaravis-0.8.so.0"


class AravisError(Exception):
    """An error that the library reported."""


class _GError(ctypes.Structure):
    _fields_ = (("domain", c_uint32), ("code", c_int), ("message", c_char_p))


DEVICE_KEYS: Final = "id", "vendor", "model", "serial_nbr", "address", "protocol"
"""What `get_device_KEY` returns of a device that was found."""
FALLIBLE: Final[dict[str, tuple[Any, ...]]] = {
    "camera_new": (c_void_p, c_char_p),
    "camera_get_vendor_name": (c_char_p, c_void_p),
    "camera_get_model_name": (c_char_p, c_void_p),
    "camera_get_device_serial_number": (c_char_p, c_void_p),
    "camera_is_feature_available": (c_int, c_void_p, c_char_p),
    "camera_set_region": (None, c_void_p, c_int, c_int, c_int, c_int),
    "camera_get_region": (None, c_void_p, *[POINTER(c_int)] * 4),
    "camera_set_pixel_format": (None, c_void_p, c_uint32),
    "camera_get_pixel_format": (c_uint32, c_void_p),
    "camera_get_pixel_format_as_string": (c_char_p, c_void_p),
    "camera_set_exposure_time": (None, c_void_p, c_double),
    "camera_get_exposure_time": (c_double, c_void_p),
    "camera_set_gain": (None, c_void_p, c_double),
    "camera_get_gain": (c_double, c_void_p),
    "camera_is_frame_rate_available": (c_int, c_void_p),
    "camera_set_frame_rate": (None, c_void_p, c_double),
    "camera_get_frame_rate": (c_double, c_void_p),
    "camera_set_trigger": (None, c_void_p, c_char_p),
    "camera_clear_triggers": (None, c_void_p),
    "camera_software_trigger": (None, c_void_p),
    "camera_set_chunks": (None, c_void_p, c_char_p),
    "camera_get_payload": (c_uint, c_void_p),
    "camera_create_stream": (c_void_p, c_void_p, c_void_p, c_void_p),
    "camera_start_acquisition": (None, c_void_p),
    "camera_stop_acquisition": (None, c_void_p),
    "camera_gv_auto_packet_size": (c_uint, c_void_p),
    "device_set_features_from_string": (None, c_void_p, c_char_p),
    "chunk_parser_get_float_value": (c_double, c_void_p, c_void_p, c_char_p),
    "chunk_parser_get_integer_value": (c_int64, c_void_p, c_void_p, c_char_p),
}
"""Functions that report errors: the types of the result and of the arguments, without the GError that comes last."""
INFALLIBLE: Final[dict[str, tuple[Any, ...]]] = {
    "update_device_list": (None,),
    "get_n_devices": (c_uint,),
    **dict.fromkeys(map("get_device_{}".format, DEVICE_KEYS), (c_char_p, c_uint)),
    "camera_set_range_check_policy": (None, c_void_p, c_int),
    "camera_get_device": (c_void_p, c_void_p),
    "camera_is_gv_device": (c_int, c_void_p),
    "camera_create_chunk_parser": (c_void_p, c_void_p),
    "gv_device_is_controller": (c_int, c_void_p),
    "stream_push_buffer": (None, c_void_p, c_void_p),
    "stream_timeout_pop_buffer": (c_void_p, c_void_p, c_uint64),
    "stream_get_n_infos": (c_uint, c_void_p),
    "stream_get_info_name": (c_char_p, c_void_p, c_uint),
    "stream_get_info_uint64_by_name": (c_uint64, c_void_p, c_char_p),
    "buffer_new": (c_void_p, c_size_t, c_void_p),
    "buffer_get_status": (c_int, c_void_p),
    "buffer_get_frame_id": (c_uint64, c_void_p),
    "buffer_set_frame_id": (None, c_void_p, c_uint64),
    "buffer_get_timestamp": (c_uint64, c_void_p),
    "buffer_set_timestamp": (None, c_void_p, c_uint64),
    "buffer_get_system_timestamp": (c_uint64, c_void_p),
    "buffer_set_system_timestamp": (None, c_void_p, c_uint64),
    "buffer_get_n_parts": (c_uint, c_void_p),
    "buffer_get_part_data_type": (c_int, c_void_p, c_uint),
    "buffer_get_part_data": (c_void_p, c_void_p, c_uint, POINTER(c_size_t)),
    # These three require the status `success`.
    "buffer_get_image_width": (c_int, c_void_p),
    "buffer_get_image_height": (c_int, c_void_p),
    "buffer_get_image_pixel_format": (c_uint32, c_void_p),
    "buffer_get_image_padding": (None, c_void_p, *[POINTER(c_int)] * 2),
    "buffer_has_chunks": (c_int, c_void_p),
    "g_error_free": (None, POINTER(_GError)),
    "g_object_set": (None, c_void_p, c_char_p, c_int, c_void_p),
    "g_object_unref": (None, c_void_p),
    "g_signal_connect_data": (c_size_t, c_void_p, c_char_p, c_void_p, c_void_p, c_void_p, c_int),
}
"""Functions that report no errors. Those of GLib keep their prefix."""
IMAGE_PART: Final = 1
"""Type of a part that is a 2D image."""
STATUSES: Final = (
    "unknown", "success", "cleared", "timeout", "missing-packets", "wrong-packet-id", "size-mismatch", "filling",
    "aborted", "payload-not-supported",
)  # fmt: skip
"""Of a buffer, from -1."""


def load(library: str | None = None) -> ctypes.CDLL:
    """Return a library, by default Aravis itself; raise a MissingExtraError if it is not installed."""
    name = library or LIBRARY
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise MissingExtraError(
            f"GigE Vision and USB3 Vision cameras need the system's Aravis library, and {name} cannot be loaded "
            f"({error}); install it: apt install libaravis-0.8-0"
        ) from error


class Function:
    """One function of the library, with its C types, looked up at its first call. Converts between str and UTF-8. With
    `fails`, it takes a GError, which is raised as AravisError.
    """

    def __init__(self, name: str, result: Any, *arguments: Any, fails: bool = False) -> None:
        self._name, self._result, self._arguments, self._fails = name, result, arguments, fails

    def __call__(self, *values: Any) -> Any:
        arguments = [value.encode() if isinstance(value, str) else value for value in values]
        error = POINTER(_GError)()
        result = self._bound(*arguments, byref(error)) if self._fails else self._bound(*arguments)
        if error:
            message = error.contents.message.decode(errors="replace")
            __getattr__("g_error_free")(error)
            raise AravisError(message)
        return result.decode(errors="replace") if isinstance(result, bytes) else result

    @functools.cached_property
    def _bound(self) -> Any:
        library = "libgobject-2.0.so.0" if self._name.startswith("g_") else None  # it loads GLib, too
        try:
            function = getattr(load(library), self._name)
        except AttributeError as error:
            raise CameraError(
                f"the installed {LIBRARY} is too old: it has no {self._name}; install Aravis 0.8.34, which has it"
            ) from error
        function.restype = self._result
        function.argtypes = [*self._arguments, *([POINTER(POINTER(_GError))] if self._fails else [])]
        return function


def __getattr__(name: str) -> Function:
    types = FALLIBLE.get(name) or INFALLIBLE.get(name)
    if types is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    full_name = name if name.startswith("g_") else f"arv_{name}"
    globals()[name] = function = Function(full_name, *types, fails=name in FALLIBLE)
    return function


def outputs(function: Function, instance: int, *kinds: Any) -> Any:
    """Return the values that a function writes to its last arguments, which have these C types."""
    values = [kind() for kind in kinds]
    function(instance, *map(byref, values))
    return tuple(value.value for value in values)
