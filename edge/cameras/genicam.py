"""GigE Vision and USB3 Vision cameras, through the system's Aravis library."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator, Mapping
from ctypes import byref, c_int, c_size_t, c_void_p
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from heatline.edge.cameras import aravis
from heatline.edge.cameras.aravis import AravisError
from heatline.edge.cameras.base import HIGHEST_16_BIT_ID, FrameSource, Opened
from heatline.edge.cameras.discovery import only_camera
from heatline.edge.cameras.settings import GenicamSettings
from heatline.edge.colour import PixelFormat
from heatline.edge.errors import CameraError
from heatline.edge.frames import BadFrame, Frame, Stamp

POLL_S: Final = 0.02
"""Longest time that a wait for a frame continues after `interrupt` or the loss of control."""
OLDEST_ARRIVAL_NS: Final = 10_000_000_000
"""A frame that seems older is not: the wall clock was set meanwhile."""
MIN_SOCKET_BUFFER_BYTES, MAX_SOCKET_BUFFER_BYTES = 1 << 20, 1 << 30
_CONTROL_LOST: Final = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
_NUMBERS: Final = (
    ("exposure_us", "exposure_time", "ExposureAuto=Off"),
    ("gain_db", "gain", "GainAuto=Off"),
    ("rate_fps", "frame_rate", "AcquisitionFrameRateEnable=true"),
)
"""Numbers that are set, in this order: key, name in the library, and what must be set before."""
FORMATS: Final[dict[int, PixelFormat]] = {
    0x01080001: "Mono8",
    0x01100003: "Mono10",
    0x01100005: "Mono12",
    0x01100007: "Mono16",
    0x02180014: "RGB8",
    0x02180015: "BGR8",
    0x02200017: "BGRA8",
    0x0230004B: "BGR16",
    0x01080009: "BayerRG8",
    0x01080008: "BayerGR8",
    0x0108000A: "BayerGB8",
    0x0108000B: "BayerBG8",
}
"""Pixel formats by their code in the Pixel Format Naming Convention (PFNC); bits 16 to 23 are the bits per pixel."""


class GenicamCamera(FrameSource[GenicamSettings]):
    """The library fills buffers that this class owns: an image is valid until the next `grab` or `close`."""

    def __init__(self, settings: GenicamSettings) -> None:
        super().__init__(settings)
        self._control_lost = threading.Event()
        self._in_use = threading.Lock()  # held during requests to the camera, so that none outlives it
        self._address = settings.address or "the only camera"
        self._camera = self._device = self._stream = self._chunk_parser = 0
        self._started = False
        self._control_callback: object = None
        self._memory: dict[int, NDArray[np.uint8]] = {}  # by buffer
        self._last_frame_id: int | None = None
        self._lent_buffer: int | None = None  # of the frame that was grabbed last
        self._failure: CameraError | None = None  # why no frame can come any more

    def open(self) -> Opened:
        try:
            return self._open()
        except AravisError as error:
            raise self._error(str(error)) from error

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        self._return_buffer()
        if self._failure is not None:
            raise self._failure
        until = time.monotonic() + timeout_s
        while not self.interrupted.is_set():
            wait_s = min(until - time.monotonic(), POLL_S)
            buffer = aravis.stream_timeout_pop_buffer(self._stream, max(int(wait_s * 1e6), 0))
            if buffer:
                self._lent_buffer = buffer
                status = aravis.STATUSES[aravis.buffer_get_status(buffer) + 1]
                if status != "payload-not-supported":
                    return self._read_frame(buffer, status)
                self._return_buffer()  # a packet that belongs to no frame
            elif self._control_lost.is_set():
                raise self._error(
                    "control of it was lost: it does not answer, has restarted, or another application controls it; "
                    "check its power and cable, and that nothing else controls it"
                )
            if time.monotonic() >= until:
                break
        return None

    def trigger(self) -> None:
        with self._in_use:
            if not self._started:
                raise self._error("it is not open, so it took no trigger")
            try:
                aravis.camera_software_trigger(self._camera)
            except AravisError as error:
                raise self._error(f"it did not take the trigger ({error})") from error

    def counters(self) -> Mapping[str, int]:
        with self._in_use:
            if not (stream := self._stream):
                return {}
            names = [aravis.stream_get_info_name(stream, index) for index in range(aravis.stream_get_n_infos(stream))]
            return {
                name.removeprefix("n_").removesuffix("_buffers"): aravis.stream_get_info_uint64_by_name(stream, name)
                for name in names
            }

    def close(self) -> None:
        """Release the camera. If it does not answer, this takes up to 13 seconds."""
        with self._in_use:
            if self._lent_buffer is not None:
                aravis.g_object_unref(self._lent_buffer)
            if self._started and not self._control_lost.is_set():
                with contextlib.suppress(AravisError):  # it is gone, and is released all the same
                    aravis.camera_stop_acquisition(self._camera)
            for instance in (self._stream, self._chunk_parser, self._camera):
                if instance:
                    aravis.g_object_unref(instance)
            self._camera = self._device = self._stream = self._chunk_parser = 0
            self._started, self._lent_buffer = False, None
            self._memory.clear()

    def _open(self) -> Opened:
        aravis.load()
        self._address = self._settings.address or only_camera()
        try:
            self._camera = camera = aravis.camera_new(self._address)
        except AravisError as error:
            raise self._error(
                f"it cannot be opened ({error}); check its power, cable and address, and `heatline cameras list`"
            ) from error
        self._device = aravis.camera_get_device(camera)
        gige = bool(aravis.camera_is_gv_device(camera))
        if gige and not aravis.gv_device_is_controller(self._device):
            raise self._error(
                "another application controls it, and only one can; close that application, or wait some seconds if it "
                "was killed, until the camera releases it"
            )
        self._control_callback = callback = _CONTROL_LOST(lambda _device, _data: self._control_lost.set())
        aravis.g_signal_connect_data(self._device, "control-lost", ctypes.cast(callback, c_void_p), None, None, 0)
        pixel_format = self._apply_settings()
        names = aravis.camera_get_vendor_name, aravis.camera_get_model_name, aravis.camera_get_device_serial_number
        found = " ".join(filter(None, (name(camera) for name in names)))
        found = "{} at {}, {}x{} {}".format(found, self._address, *_region(camera)[2:], pixel_format)
        if gige:
            found += f", packets of {aravis.camera_gv_auto_packet_size(camera)} bytes"
        rate_fps = 0.0
        if self._settings.trigger == "free" and aravis.camera_is_frame_rate_available(camera):
            rate_fps = aravis.camera_get_frame_rate(camera)
        self._stream = stream = aravis.camera_create_stream(self._camera, None, None)
        if not stream:
            raise self._error("it opens no stream of frames")
        payload = aravis.camera_get_payload(self._camera)
        if gige:
            size = min(max(2 * payload, MIN_SOCKET_BUFFER_BYTES), MAX_SOCKET_BUFFER_BYTES)
            aravis.g_object_set(stream, "socket-buffer-size", size, None)
        for _ in range(self._settings.buffers):
            memory = np.empty(payload, np.uint8)
            buffer = aravis.buffer_new(payload, memory.ctypes.data)
            self._memory[buffer] = memory
            self._push(buffer)
        aravis.camera_start_acquisition(self._camera)
        self._started = True
        return Opened(
            found=f"{found}, {rate_fps:.4g} frames/s" if rate_fps > 0 else found,
            ids_show_gaps=True,
            period_s=1 / rate_fps if rate_fps > 0 else None,
        )

    def _apply_settings(self) -> PixelFormat:
        """Apply the settings, in an order in which each depends only on those before; return the pixel format."""
        settings, camera = self._settings, self._camera
        with contextlib.suppress(AravisError):  # an earlier application may have left it running
            aravis.camera_stop_acquisition(camera)
        aravis.camera_set_range_check_policy(camera, 1)  # check them
        self._set_feature("AcquisitionMode=Continuous")
        with self._naming("pixel_format", settings.pixel_format):
            for code, name in FORMATS.items():
                if name == settings.pixel_format:
                    aravis.camera_set_pixel_format(camera, code)
        pixel_format = FORMATS.get(aravis.camera_get_pixel_format(camera))
        if pixel_format is None or settings.pixel_format not in ("first", "any", pixel_format):
            raise self._error(
                f"it sends {aravis.camera_get_pixel_format_as_string(camera)} where pixel_format is "
                f"{settings.pixel_format}; set pixel_format to one of {', '.join(FORMATS.values())} that it offers"
            )
        if settings.region is not None:
            with self._naming("region", settings.region):
                aravis.camera_set_region(camera, 0, 0, -1, -1)  # offsets reduce the bounds of width and height
                aravis.camera_set_region(camera, *settings.region)
            if (region := _region(camera)) != settings.region:
                raise self._error(f"region {list(settings.region)} does not suit it: it stands at {list(region)}")
        if settings.trigger != "free":
            source = "Software" if settings.trigger == "software" else settings.trigger_line
            with self._naming("trigger", source):
                aravis.camera_set_trigger(camera, source)
        elif aravis.camera_is_feature_available(camera, "TriggerMode"):
            with self._naming("trigger", "free"):
                aravis.camera_clear_triggers(camera)
        for key, feature, before in _NUMBERS:
            requested: float | None = getattr(settings, key)
            if requested is not None and (key != "rate_fps" or settings.trigger == "free"):
                self._set_feature(before)
                with self._naming(key, requested):
                    getattr(aravis, f"camera_set_{feature}")(camera, requested)
                    accepted = getattr(aravis, f"camera_get_{feature}")(camera)
                if abs(accepted - requested) > (0.5 if feature == "gain" else 0.05 * requested):
                    raise self._error(f"{key} {requested:g} does not suit it: it stands at {accepted:g}")
        if settings.chunks:
            with self._naming("chunks", settings.chunks):
                aravis.camera_set_chunks(camera, ",".join(settings.chunks))
            self._chunk_parser = aravis.camera_create_chunk_parser(camera)
        return pixel_format

    def _set_feature(self, assignment: str) -> None:
        with contextlib.suppress(AravisError):  # not all cameras have it
            aravis.device_set_features_from_string(self._device, assignment)

    def _push(self, buffer: int) -> None:
        # The id and the times of the last frame would stay if the first packet of the next one is lost.
        aravis.buffer_set_frame_id(buffer, 0)
        aravis.buffer_set_timestamp(buffer, 0)
        aravis.buffer_set_system_timestamp(buffer, 0)
        aravis.stream_push_buffer(self._stream, buffer)

    def _return_buffer(self) -> None:
        if self._lent_buffer is not None:
            self._push(self._lent_buffer)
            self._lent_buffer = None

    def _read_frame(self, buffer: int, status: str) -> Frame | BadFrame:
        stamp = self._stamp(buffer)
        if status == "size-mismatch":
            self._failure = self._error("its size changed in mid-run")
        if status != "success":
            detail = f"the frame came incomplete ({status}): packets were lost; see The network in docs/genicam.md"
            return BadFrame(stamp, "incomplete", detail)
        try:
            return Frame(stamp, *self._read_image(buffer))
        except CameraError as error:
            self._failure = error
            return BadFrame(stamp, "incomplete", str(error))

    def _stamp(self, buffer: int) -> Stamp:
        now_ns, now_monotonic_ns = time.time_ns(), time.monotonic_ns()
        age_ns = now_ns - (aravis.buffer_get_system_timestamp(buffer) or now_ns)
        if not 0 <= age_ns <= OLDEST_ARRIVAL_NS:  # the wall clock was set meanwhile
            age_ns = 0
        frame_id = aravis.buffer_get_frame_id(buffer) or None
        if frame_id is None and self._last_frame_id is not None:  # its first packet was lost
            frame_id = 1 if self._last_frame_id == HIGHEST_16_BIT_ID else self._last_frame_id + 1
        self._last_frame_id = frame_id
        chunks: dict[str, float] = {}  # those that are numbers
        for chunk in self._settings.chunks if aravis.buffer_has_chunks(buffer) else ():
            for read in (aravis.chunk_parser_get_float_value, aravis.chunk_parser_get_integer_value):
                with contextlib.suppress(AravisError):  # it is of another type, or not in this frame
                    chunks[chunk] = float(read(self._chunk_parser, buffer, f"Chunk{chunk}"))
        return Stamp(
            self.name,
            frame_id,
            camera_timestamp_ns=aravis.buffer_get_timestamp(buffer) or None,
            captured_at_ns=now_ns - age_ns,
            captured_monotonic_ns=now_monotonic_ns - age_ns,
            chunks=chunks,
        )

    def _read_image(self, buffer: int) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], PixelFormat]:
        """Return the picture in a complete buffer. Its size and format come from the buffer: they may have changed."""
        if not aravis.buffer_get_n_parts(buffer) or aravis.buffer_get_part_data_type(buffer, 0) != aravis.IMAGE_PART:
            raise self._error("it sends payloads that are not pictures; set its payload type, or switch chunks off")
        width, height = aravis.buffer_get_image_width(buffer), aravis.buffer_get_image_height(buffer)
        padding, _ = aravis.outputs(aravis.buffer_get_image_padding, buffer, c_int, c_int)
        code = aravis.buffer_get_image_pixel_format(buffer)
        sent = FORMATS.get(code)
        if sent is None:
            raise self._error(f"it sends pixel format {code:#010x}, which is not supported; set pixel_format")
        pixels = width * (code >> 16 & 0xFF) // 8
        line = pixels + padding
        needed = line * height
        memory, size = self._memory[buffer], c_size_t()
        address = aravis.buffer_get_part_data(buffer, 0, byref(size))
        data = memory[address - memory.ctypes.data :][: size.value]
        if data.size < needed or needed == 0:  # the library reports a frame that outgrew its buffer as complete
            raise self._error(
                f"its size changed in mid-run: a frame of {width}x{height} {sent} has {needed} bytes and its buffer "
                f"took {data.size}"
            )
        lines: Any = data[:needed].reshape(height, line)[:, :pixels]
        if not sent.endswith("8"):
            lines = lines.view(np.uint16)
        return (lines if lines.shape[1] == width else lines.reshape(height, width, -1)), sent

    def _error(self, message: str) -> CameraError:
        return CameraError(f"camera {self.name} at {self._address}: {message}")

    @contextlib.contextmanager
    def _naming(self, key: str, requested: object) -> Iterator[None]:
        """Add the name of the setting to an error of the library."""
        try:
            yield
        except AravisError as error:
            raise self._error(f"it refuses {key} {requested} ({error})") from error


def _region(camera: int) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the camera's region, px."""
    region: tuple[int, int, int, int] = aravis.outputs(aravis.camera_get_region, camera, *[c_int] * 4)
    return region
