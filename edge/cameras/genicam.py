"""GigE Vision and USB3 Vision cameras, through the system's Aravis library."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from ctypes import byref, c_double, c_int, c_size_t, c_uint, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from heatline.edge.cameras import aravis
from heatline.edge.cameras.aravis import AravisError
from heatline.edge.cameras.base import FrameSource, Opened
from heatline.edge.cameras.discovery import resolve_address
from heatline.edge.cameras.settings import GenicamSettings
from heatline.edge.colour import PixelFormat
from heatline.edge.errors import CameraError
from heatline.edge.frames import BadFrame, Frame, Stamp

POLL_S: Final = 0.02
"""Longest time that a wait for a frame continues after `interrupt` or the loss of control."""
OLDEST_ARRIVAL_NS: Final = 10_000_000_000
"""A frame that seems older is not: the wall clock was set meanwhile."""
HIGHEST_16_BIT_ID: Final = 65535
SOCKET_BUFFER_FRAMES: Final = 2
MIN_SOCKET_BUFFER_BYTES: Final = 1 << 20
MAX_SOCKET_BUFFER_BYTES: Final = 1 << 30
HIGHEST_SOCKET_BUFFER = Path("/proc/sys/net/core/rmem_max")

MAX_STRAY_BUFFERS: Final = 50
"""Limit for packets that belong to no frame: late test packets are few; compressed video is nothing else."""

_NUMBERS: Final = (
    ("exposure_us", "exposure_time", "ExposureAuto=Off"),
    ("gain_db", "gain", "GainAuto=Off"),
    ("rate_fps", "frame_rate", "AcquisitionFrameRateEnable=true"),
)
"""Numbers that are set, in this order: key, name in the library, and what must be set before."""

GVSP_CONFIGURATION: Final = 0x0960
"""GigE Vision bootstrap register; bit 1 from the left is set if frame ids have 64 bits."""
IDS_HAVE_64_BITS: Final = 0x4000_0000
_CONTROL_LOST: Final = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)

USEFUL_COUNTERS: Final = {
    "n_completed_buffers": "completed",
    "n_failures": "failures",
    "n_timeouts": "timeouts",
    "n_missing_frames": "missing_frames",
    "n_underruns": "underruns",
    "n_received_packets": "received_packets",
    "n_missing_packets": "missing_packets",
    "n_resend_requests": "resend_requests",
    "n_resent_packets": "resent_packets",
    "n_duplicated_packets": "duplicated_packets",
    "n_ignored_packets": "ignored_packets",
    "n_size_mismatch_errors": "size_mismatches",
}
"""The library's names of a stream's counters, and ours. docs/genicam.md describes each."""


# Packed pixel formats: each function converts uint8 [..., bytes] to uint16 [..., pixels], values in the lowest bits.


def unpack_mono10p(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack PFNC Mono10p: four pixels in five bytes, lowest bits first."""
    a, b, c, d, e = _columns(data, 5)
    return _interleave(a | (b & 0x3) << 8, b >> 2 | (c & 0xF) << 6, c >> 4 | (d & 0x3F) << 4, d >> 6 | e << 2)


def unpack_mono12p(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack PFNC Mono12p: two pixels in three bytes, lowest bits first."""
    first, middle, last = _columns(data, 3)
    return _interleave(first | (middle & 0xF) << 8, middle >> 4 | last << 4)


def unpack_mono10_packed(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack GigE Vision Mono10Packed: the middle of three bytes has the lowest 2 bits of both, at bits 0 and 4."""
    first, middle, last = _columns(data, 3)
    return _interleave(first << 2 | middle & 0x3, last << 2 | middle >> 4 & 0x3)


def unpack_mono12_packed(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack GigE Vision Mono12Packed: the middle byte of three has the lowest 4 bits of both pixels."""
    first, middle, last = _columns(data, 3)
    return _interleave(first << 4 | middle & 0xF, last << 4 | middle >> 4)


def _columns(data: NDArray[np.uint8], size: int) -> list[NDArray[np.uint16]]:
    """Return the first, second, ... byte of every group of `size` bytes."""
    return [data[..., index::size].astype(np.uint16) for index in range(size)]


def _interleave(*pixels: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
    """Interleave the first, second, ... pixel of every group into lines."""
    return np.stack(pixels, axis=-1).reshape(*pixels[0].shape[:-1], -1).astype(np.uint16, copy=False)


@dataclass(frozen=True)
class _Sent:
    """A pixel format that a camera sends, and the format that it is converted to."""

    name: str
    becomes: PixelFormat
    bits: int
    """Per pixel."""
    channels: int = 1
    unpack: Callable[[NDArray[np.uint8]], NDArray[np.uint16]] | None = None
    """From uint8 [H, bytes of a line] to uint16 [H, W]."""


FORMATS: Final = {
    0x01080001: _Sent("Mono8", "Mono8", 8),
    0x01100003: _Sent("Mono10", "Mono10", 16),
    0x010A0046: _Sent("Mono10p", "Mono10", 10, unpack=unpack_mono10p),
    0x010C0004: _Sent("Mono10Packed", "Mono10", 12, unpack=unpack_mono10_packed),
    0x01100005: _Sent("Mono12", "Mono12", 16),
    0x010C0047: _Sent("Mono12p", "Mono12", 12, unpack=unpack_mono12p),
    0x010C0006: _Sent("Mono12Packed", "Mono12", 12, unpack=unpack_mono12_packed),
    0x01100007: _Sent("Mono16", "Mono16", 16),
    0x02180014: _Sent("RGB8", "RGB8", 24, 3),
    0x02180015: _Sent("BGR8", "BGR8", 24, 3),
    0x02200017: _Sent("BGRa8", "BGRA8", 32, 4),
    0x0230004B: _Sent("BGR16", "BGR16", 48, 3),
    0x01080009: _Sent("BayerRG8", "BayerRG8", 8),
    0x01080008: _Sent("BayerGR8", "BayerGR8", 8),
    0x0108000A: _Sent("BayerGB8", "BayerGB8", 8),
    0x0108000B: _Sent("BayerBG8", "BayerBG8", 8),
}
"""Pixel formats by their code in the Pixel Format Naming Convention (PFNC). Unpacked formats precede packed ones."""


class _Unusable(Exception):
    """A complete frame that cannot be converted to a picture."""


def _buffer_advice(requested_bytes: int) -> str:
    """Return advice against losses if the kernel's limit of the receive buffer is too low, else an empty string."""
    try:
        limit_bytes = int(HIGHEST_SOCKET_BUFFER.read_text())
    except (OSError, ValueError):  # this kernel states no limit
        return ""
    if limit_bytes >= requested_bytes:
        return ""
    return f"; net.core.rmem_max is {limit_bytes}, raise it to {requested_bytes} or more (docs/genicam.md)"


def _line_bytes(sent: _Sent, width: int) -> int:
    if width * sent.bits % 8:
        raise _Unusable(
            f"it sends {sent.name} with lines of {width} px, which end within a byte, and cameras differ in how they "
            "continue; set region to a width that is a multiple of 4, or choose an unpacked pixel format"
        )
    return width * sent.bits // 8


class GenicamCamera(FrameSource):
    """A GigE Vision or USB3 Vision camera.

    The library fills buffers that this class owns: an image is valid until the next `grab` or `close`.
    """

    def __init__(self, settings: GenicamSettings) -> None:
        super().__init__(settings.name)
        self._settings = settings
        self._control_lost = threading.Event()
        self._in_use = threading.Lock()  # held during requests to the camera, so that none outlives it
        self._counters_in_use = threading.Lock()
        self._address = settings.address or "the only camera"
        self._camera = self._device = self._stream = self._chunk_parser = 0
        self._started = self._silent = False
        self._control_callback: object = None
        self._memory: dict[int, NDArray[np.uint8]] = {}  # by buffer
        self._chunks: dict[str, aravis.Function] = {}  # their readers
        self._highest_frame_id: int | None = None
        self._last_frame_id: int | None = None
        self._lent_buffer: int | None = None  # of the frame that was grabbed last
        self._strays = 0
        self._failure: str | None = None  # why no frame can come any more
        self._advice = ""  # what to do against losses

    def open(self) -> Opened:
        try:
            return self._open()
        except (AravisError, _Unusable) as error:
            raise self._error(str(error)) from error
        finally:
            if not self._started:
                self.close()

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        self._return_buffer()
        if self._failure is not None:
            raise self._error(self._failure)
        until = time.monotonic() + timeout_s
        while not self.interrupted.is_set():
            wait_s = min(until - time.monotonic(), POLL_S)
            buffer = aravis.stream_timeout_pop_buffer(self._stream, max(int(wait_s * 1e6), 0))
            if buffer:
                self._lent_buffer = buffer
                item = self._read_frame(buffer)
                if item is not None:
                    self._strays = 0
                    return item
                self._return_buffer()
            elif self._control_lost.is_set():
                raise self._error(
                    "control of it was lost: it does not answer, has restarted, or another application controls it; "
                    "check its power and cable, and that nothing else controls it"
                )
            if time.monotonic() >= until:
                break
        if self._strays > MAX_STRAY_BUFFERS:  # and no frame since
            raise self._error("it sends payloads that are not pictures; switch off the compression of its frames")
        return None

    def trigger(self) -> None:
        if self._settings.trigger != "software":
            super().trigger()
        with self._in_use:
            if not self._started:
                raise self._error("it is not open, so it took no trigger")
            try:
                aravis.camera_software_trigger(self._camera)
            except AravisError as error:
                raise self._error(f"it did not take the trigger ({error})") from error

    def answers(self) -> bool:
        """Read the camera's memory; return whether it answers. False may take five seconds."""
        with self._in_use:
            if not self._started or self._control_lost.is_set():
                return False
            try:
                aravis.device_read_memory(self._device, 0, 4, ctypes.create_string_buffer(4))
            except AravisError:
                self._silent = True
                return False
            self._silent = False
            return True

    def counters(self) -> Mapping[str, int]:
        with self._counters_in_use:
            if not (stream := self._stream):
                return {}
            known = {aravis.stream_get_info_name(stream, index) for index in range(aravis.stream_get_n_infos(stream))}
            return {
                ours: aravis.stream_get_info_uint64_by_name(stream, theirs)
                for theirs, ours in USEFUL_COUNTERS.items()
                if theirs in known
            }

    def close(self) -> None:
        """Release the camera. If it does not answer, this takes up to 13 seconds."""
        with self._in_use, self._counters_in_use:
            if self._lent_buffer is not None:
                aravis.g_object_unref(self._lent_buffer)
            if self._started and not self._silent and not self._control_lost.is_set():
                with contextlib.suppress(AravisError):  # it is gone, and is released all the same
                    aravis.camera_stop_acquisition(self._camera)
            for instance in (self._stream, self._chunk_parser, self._camera):
                if instance:
                    aravis.g_object_unref(instance)
            self._camera = self._device = self._stream = self._chunk_parser = 0
            self._started, self._lent_buffer = False, None
            self._memory.clear()

    # Opening.

    def _open(self) -> Opened:
        aravis.load()
        try:
            aravis_name = resolve_address(self._settings.address, self._settings.interface)
        except CameraError as error:
            raise CameraError(f"camera {self.name}: {error}") from error
        self._address = self._settings.address or aravis_name
        try:
            self._camera = aravis.camera_new(aravis_name)
        except AravisError as error:
            raise self._error(
                f"it cannot be opened ({error}); check its power, cable and IP address, and `heatline cameras list`"
            ) from error
        self._device = aravis.camera_get_device(self._camera)
        gige = bool(aravis.camera_is_gv_device(self._camera))
        if gige and not aravis.gv_device_is_controller(self._device):
            raise self._error(
                "another application controls it, and only one can; close that application, or wait some seconds if it "
                "was killed, until the camera releases it"
            )
        self._control_callback = callback = _CONTROL_LOST(lambda _device, _data: self._control_lost.set())
        aravis.g_signal_connect_data(self._device, "control-lost", ctypes.cast(callback, c_void_p), None, None, 0)
        pixel_format = self._set_features()
        names = aravis.camera_get_vendor_name, aravis.camera_get_model_name, aravis.camera_get_device_serial_number
        found = " ".join(filter(None, (name(self._camera) for name in names)))
        _, _, width, height = _region(self._camera)
        _line_bytes(pixel_format, width)
        found = f"{found} at {self._address}, {width}x{height} {pixel_format.name}"
        if gige:
            found += f", packets of {aravis.camera_gv_auto_packet_size(self._camera)} bytes"
        period_s = self._period_s()
        self._start_stream(gige)
        self._highest_frame_id = HIGHEST_16_BIT_ID if gige and not self._ids_have_64_bits() else None
        return Opened(
            found=found if period_s is None else f"{found}, {1 / period_s:.4g} frames/s",
            highest_frame_id=self._highest_frame_id,
            ids_show_gaps=True,
            period_s=period_s,
            can_be_polled=True,
        )

    def _set_features(self) -> _Sent:
        """Apply the settings of the configuration, in an order in which each depends only on those before."""
        settings, camera = self._settings, self._camera
        with contextlib.suppress(AravisError):  # an earlier application may have left it running
            aravis.camera_stop_acquisition(camera)
        with contextlib.suppress(AravisError):  # not all cameras have this feature
            aravis.device_set_features_from_string(self._device, "AcquisitionMode=Continuous")
        pixel_format = self._set_pixel_format()
        if settings.region is not None:
            self._set_region(*settings.region)
        self._set_trigger()
        for key, feature, before in _NUMBERS:
            requested: float | None = getattr(settings, key)
            if requested is not None and (key != "rate_fps" or settings.trigger == "free"):
                with contextlib.suppress(AravisError):  # not all cameras have this feature
                    aravis.device_set_features_from_string(self._device, before)
                self._set_number(key, requested, feature)
        if settings.chunks:
            self._set_chunks(settings.chunks)
        return pixel_format

    def _set_pixel_format(self) -> _Sent:
        requested, camera = self._settings.pixel_format, self._camera
        if requested not in ("first", "any"):
            offered = _pixel_formats(camera)
            code = next((code for code, sent in FORMATS.items() if sent.becomes == requested and code in offered), None)
            if code is None:
                raise self._error(
                    f"it has no pixel format {requested}; it offers {', '.join(_choices(camera, 'PixelFormat'))}"
                )
            with self._naming("pixel_format", requested):
                aravis.camera_set_pixel_format(camera, code)
        sent = FORMATS.get(aravis.camera_get_pixel_format(camera))
        if sent is None or requested not in ("first", "any", sent.becomes):
            raise self._error(
                f"it sends {aravis.camera_get_pixel_format_as_string(camera)} where pixel_format is {requested}; set "
                f"pixel_format to one of {', '.join(sorted({sent.becomes for sent in FORMATS.values()}))} that it "
                "offers"
            )
        return sent

    def _set_region(self, x: int, y: int, width: int, height: int) -> None:
        camera, requested = self._camera, (x, y, width, height)
        with self._naming("region", requested):
            aravis.camera_set_region(camera, 0, 0, -1, -1)  # offsets reduce the bounds of width and height
            widths = aravis.outputs(aravis.camera_get_width_bounds, camera, c_int, c_int)
            heights = aravis.outputs(aravis.camera_get_height_bounds, camera, c_int, c_int)
            fits = widths[0] <= width <= widths[1] - x and heights[0] <= height <= heights[1] - y
            if fits:
                aravis.camera_set_region(camera, *requested)
        accepted = _region(camera)
        if not fits or accepted != requested:
            raise self._error(
                f"region {list(requested)} does not suit it: x + width may be {widths[0]} to {widths[1]} px and y + "
                f"height {heights[0]} to {heights[1]} px, and it stands at {list(accepted)}"
            )

    def _set_trigger(self) -> None:
        camera, trigger = self._camera, self._settings.trigger
        if not aravis.camera_is_feature_available(camera, "TriggerMode"):
            if trigger != "free":
                raise self._error(f'it cannot be triggered; set trigger to "free" instead of "{trigger}"')
            return
        if trigger == "free":
            with self._naming("trigger", trigger):
                aravis.camera_clear_triggers(camera)
            return
        source = "Software" if trigger == "software" else self._settings.trigger_line
        offered = _choices(camera, "TriggerSource")
        if source not in offered:
            raise self._error(f"it has no trigger source {source}; it offers {', '.join(offered)}")
        with self._naming("trigger", source):
            aravis.camera_set_trigger(camera, source)

    def _set_number(self, key: str, requested: float, feature: str) -> None:
        """Set a number, and check that the camera has accepted it, but for rounding.

        Args:
            feature: its name in the library.
        """
        camera, tolerance = self._camera, 0.5 if feature == "gain" else 0.05 * requested
        if not getattr(aravis, f"camera_is_{feature}_available")(camera):
            raise self._error(f"it has no feature for {key}; leave {key} out")
        with self._naming(key, requested):
            bounds = getattr(aravis, f"camera_get_{feature}_bounds")
            low, high = aravis.outputs(bounds, camera, c_double, c_double)
            if low <= requested <= high:
                if feature == "gain" and requested < 0 and aravis.camera_is_feature_available(camera, "Gain"):
                    aravis.device_set_features_from_string(
                        self._device, f"Gain={requested}"
                    )  # Aravis sets none below 0
                else:
                    getattr(aravis, f"camera_set_{feature}")(camera, requested)
            accepted = getattr(aravis, f"camera_get_{feature}")(camera)
        if not low <= requested <= high or abs(accepted - requested) > tolerance:
            raise self._error(
                f"{key} {requested:g} does not suit it: with the settings before it offers {low:g} to {high:g}, "
                f"and it stands at {accepted:g}"
            )

    def _set_chunks(self, chunks: list[str]) -> None:
        camera = self._camera
        has_chunks = aravis.camera_is_feature_available(camera, "ChunkModeActive")
        offered = _choices(camera, "ChunkSelector") if has_chunks else []
        for chunk in chunks:
            reader = _chunk_reader(self._device, f"Chunk{chunk}") if chunk in offered else None
            if reader is None:
                numbers = [name for name in offered if _chunk_reader(self._device, f"Chunk{name}")]
                raise self._error(f"it has no chunk {chunk} that is a number; it offers {', '.join(numbers) or 'none'}")
            self._chunks[chunk] = reader
        with self._naming("chunks", ", ".join(chunks)):
            aravis.camera_set_chunks(camera, ",".join(chunks))
        self._chunk_parser = aravis.camera_create_chunk_parser(camera)

    def _start_stream(self, gige: bool) -> None:
        camera = self._camera
        stream = aravis.camera_create_stream(camera, None, None)
        if not stream:
            raise self._error("it opens no stream of frames")
        self._stream = stream
        payload = aravis.camera_get_payload(camera)
        if gige:
            size = min(max(SOCKET_BUFFER_FRAMES * payload, MIN_SOCKET_BUFFER_BYTES), MAX_SOCKET_BUFFER_BYTES)
            aravis.g_object_set(stream, "socket-buffer-size", size, None)
            self._advice = _buffer_advice(size)
        for _ in range(self._settings.buffers):
            memory = np.empty(payload, np.uint8)
            buffer = aravis.buffer_new(payload, memory.ctypes.data)
            self._memory[buffer] = memory
            self._push(buffer)
        aravis.camera_start_acquisition(camera)
        self._started = True

    def _period_s(self) -> float | None:
        if self._settings.trigger != "free" or not aravis.camera_is_frame_rate_available(self._camera):
            return None
        rate_fps = aravis.camera_get_frame_rate(self._camera)
        return 1 / rate_fps if rate_fps > 0 else None

    def _ids_have_64_bits(self) -> bool:
        value = c_uint32()
        with contextlib.suppress(AravisError):  # a register of GigE Vision 2
            aravis.device_read_register(self._device, GVSP_CONFIGURATION, byref(value))
        return bool(value.value & IDS_HAVE_64_BITS)

    # Grabbing.

    def _push(self, buffer: int) -> None:
        """Queue a buffer for the library, without the last frame's id and times.

        They come with a frame's first packet; if that is lost, those of the last frame would stay.
        """
        aravis.buffer_set_frame_id(buffer, 0)
        aravis.buffer_set_timestamp(buffer, 0)
        aravis.buffer_set_system_timestamp(buffer, 0)
        aravis.stream_push_buffer(self._stream, buffer)

    def _return_buffer(self) -> None:
        if self._lent_buffer is not None:
            self._push(self._lent_buffer)
            self._lent_buffer = None

    def _read_frame(self, buffer: int) -> Frame | BadFrame | None:
        """Return the frame in a buffer; None: a packet that belongs to no frame."""
        status = aravis.STATUSES[aravis.buffer_get_status(buffer) + 1]
        if status == "payload-not-supported":
            self._strays += 1
            return None
        stamp = self._stamp(buffer)
        if status != "success":
            if status == "size-mismatch":
                self._failure = "its size changed in mid-run"
            return BadFrame(
                stamp,
                "incomplete",
                f"the frame came incomplete ({status}): packets were lost between camera and this PC{self._advice}",
            )
        try:
            image, pixel_format = self._read_image(buffer)
        except _Unusable as error:
            self._failure = str(error)
            return BadFrame(stamp, "incomplete", str(error))
        return Frame(stamp, image, pixel_format)

    def _stamp(self, buffer: int) -> Stamp:
        now_ns, now_monotonic_ns = time.time_ns(), time.monotonic_ns()
        arrived_ns = aravis.buffer_get_system_timestamp(buffer) or now_ns
        age_ns = now_ns - arrived_ns
        if not 0 <= age_ns <= OLDEST_ARRIVAL_NS:  # the wall clock was set meanwhile
            age_ns = 0
        return Stamp(
            self.name,
            self._frame_id(buffer),
            camera_timestamp_ns=aravis.buffer_get_timestamp(buffer) or None,
            captured_at_ns=now_ns - age_ns,
            captured_monotonic_ns=now_monotonic_ns - age_ns,
            chunks=self._chunk_values(buffer),
        )

    def _frame_id(self, buffer: int) -> int | None:
        """Return the camera's frame id; if the first packet was lost, the id after the last one."""
        frame_id: int | None = aravis.buffer_get_frame_id(buffer) or None
        if frame_id is None and self._last_frame_id is not None:
            frame_id = 1 if self._last_frame_id == self._highest_frame_id else self._last_frame_id + 1
        self._last_frame_id = frame_id
        return frame_id

    def _chunk_values(self, buffer: int) -> dict[str, float]:
        if not self._chunks or not aravis.buffer_has_chunks(buffer):
            return {}
        values = {}
        for chunk, read in self._chunks.items():
            with contextlib.suppress(AravisError):  # this frame lacks the chunk
                values[chunk] = float(read(self._chunk_parser, buffer, f"Chunk{chunk}"))
        return values

    def _read_image(self, buffer: int) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], PixelFormat]:
        """Return the picture in a complete buffer. Its size and format come from the buffer: they may have changed."""
        if not aravis.buffer_get_n_parts(buffer) or aravis.buffer_get_part_data_type(buffer, 0) != aravis.IMAGE_PART:
            raise _Unusable("it sends payloads that are not pictures; switch its chunks off, or its other payload type")
        width, height = aravis.buffer_get_image_width(buffer), aravis.buffer_get_image_height(buffer)
        code, padding = (
            aravis.buffer_get_image_pixel_format(buffer),
            aravis.outputs(aravis.buffer_get_image_padding, buffer, c_int, c_int)[0],
        )
        sent = FORMATS.get(code)
        if sent is None:
            raise _Unusable(
                f"it sends pixel format {code:#010x}, which is not supported; set pixel_format to one that is"
            )
        line = _line_bytes(sent, width) + padding
        needed = line * height
        memory, size = self._memory[buffer], c_size_t()
        address = aravis.buffer_get_part_data(buffer, 0, byref(size))
        data = memory[address - memory.ctypes.data :][: size.value]
        if data.size < needed or needed == 0:  # the library reports a frame that outgrew its buffer as complete
            raise _Unusable(
                f"its size changed in mid-run: a frame of {width}x{height} {sent.name} has {needed} bytes and its "
                f"buffer took {data.size}"
            )
        lines = data[:needed].reshape(height, line)[:, : line - padding]
        if sent.unpack:
            return sent.unpack(lines), sent.becomes
        pixels: Any = lines if sent.bits // sent.channels == 8 else lines.view(np.uint16)
        return (pixels if sent.channels == 1 else pixels.reshape(height, width, sent.channels)), sent.becomes

    # Errors.

    def _error(self, message: str) -> CameraError:
        return CameraError(f"camera {self.name} at {self._address}: {message}")

    @contextlib.contextmanager
    def _naming(self, key: str, requested: object) -> Iterator[None]:
        """Add the name of the setting to an error of the library."""
        try:
            yield
        except AravisError as error:
            raise self._error(f"it refuses {key} {requested} ({error})") from error


# Features of a camera.


def _region(camera: int) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the camera's region, px."""
    region: tuple[int, int, int, int] = aravis.outputs(aravis.camera_get_region, camera, *[c_int] * 4)
    return region


def _choices(camera: int, feature: str) -> list[str]:
    """Return the values that an enumeration offers now."""
    count = c_uint()
    names = aravis.camera_dup_available_enumerations_as_strings(camera, feature, byref(count))
    texts = ctypes.cast(names, ctypes.POINTER(ctypes.c_char_p))
    try:
        return [(texts[index] or b"").decode(errors="replace") for index in range(count.value)]
    finally:
        aravis.g_free(names)


def _pixel_formats(camera: int) -> list[int]:
    """Return the codes of the pixel formats that the camera offers now."""
    count = c_uint()
    codes = aravis.camera_dup_available_pixel_formats(camera, byref(count))
    values = ctypes.cast(codes, ctypes.POINTER(ctypes.c_int64))
    try:
        return [values[index] & 0xFFFFFFFF for index in range(count.value)]
    finally:
        aravis.g_free(codes)


def _chunk_reader(device: int, feature: str) -> aravis.Function | None:
    """Return the function that reads a chunk's value from parser, buffer and feature; None: it is not a number."""
    node = aravis.device_get_feature(device, feature)
    if node:
        for kind in ("float", "integer", "boolean"):
            if aravis.g_type_check_instance_is_a(node, getattr(aravis, f"gc_{kind}_get_type")()):
                reader: aravis.Function = getattr(aravis, f"chunk_parser_get_{kind}_value")
                return reader
    return None
