"""A running camera is reconfigured: it is closed, opened with other settings, and loses no announced frame."""

from pathlib import Path

from heatline.edge.cameras.settings import CameraSettings, FolderSettings
from heatline.edge.inspection.pipeline import GRAB_TIMEOUT_SECONDS
from tests.edge.supervised import Watched, drawn_camera, watched

NEW_IDS_FROM = 1000
# A camera may be silent for a moment on a busy machine: only a minute of silence is an alarm here.
PATIENT = {"rate_fps": 100, "silent_after_periods": 6000}
OLD, NEW = drawn_camera(**PATIENT), drawn_camera(**PATIENT, first_frame_id=NEW_IDS_FROM)
NOWHERE = FolderSettings(name="top", path=Path("/nowhere"))


class Answer:
    """The result of a reconfiguration, and the number of frames before it."""

    def __init__(self, camera: Watched) -> None:
        self._camera = camera
        self.errors: list[str | None] = []
        self.ids_before: list[int] = []

    def __call__(self, error: str | None) -> None:
        self.errors.append(error)
        self.ids_before = self._camera.ids()


def changed(camera: Watched, settings: CameraSettings, *, keep_frames: bool = True) -> Answer:
    """Reconfigure the camera, and grab until the result comes."""
    answer = Answer(camera)
    camera.camera.reconfigure(settings, answer, keep_frames=keep_frames)
    camera.until(lambda: bool(answer.errors))
    return answer


def test_announced_frames_come_first_and_all_later_ones_have_the_new_settings() -> None:
    with watched(OLD) as camera:
        camera.until_frames(3)
        camera.until_unread(3)
        answer = changed(camera, NEW)
        camera.until_frames(3)
        ids = camera.ids()
        old, new = [i for i in ids if i < NEW_IDS_FROM], [i for i in ids if i >= NEW_IDS_FROM]
        assert answer.errors == [None]
        assert ids == [*range(1, len(old) + 1), *range(NEW_IDS_FROM, NEW_IDS_FROM + len(new))]
        assert len(old) >= 6
        assert all(i < NEW_IDS_FROM for i in answer.ids_before)
        # If this machine was too slow to read a frame in time, the frame is reported as dropped.
        assert {(seen.kind, seen.reason) for seen in camera.bad} <= {("dropped", "stopped")}
        assert camera.alarms == []
        assert camera.camera.state().openings == 2


def test_frames_of_refused_settings_can_be_dropped_and_are_reported() -> None:
    with watched(OLD) as camera:
        camera.until_frames(1)
        camera.until_unread(3)
        changed(camera, NEW, keep_frames=False)
        camera.until_frames(2)
        assert {(seen.kind, seen.reason) for seen in camera.bad} == {("dropped", "changeover")}
        old = [i for i in camera.ids() if i < NEW_IDS_FROM]
        assert old == list(range(1, len(old) + 1))


def test_settings_that_fail_to_open_are_refused_and_the_former_ones_work_again() -> None:
    with watched(OLD) as camera:
        camera.until_frames(1)
        refused, back = changed(camera, NOWHERE), changed(camera, OLD)
        camera.until_frames(2)
        (error,) = refused.errors
        assert error is not None
        assert "/nowhere" in error
        assert back.errors == [None]
        assert camera.states == [("open", True), ("open", False)]


def test_a_dead_camera_is_opened_with_the_new_settings_as_soon_as_possible() -> None:
    with watched(NOWHERE, opened=False) as camera:
        camera.until(lambda: bool(camera.alarms))
        answer = changed(camera, NEW)
        camera.until_frames(1)
        assert answer.errors == [None], "the change does not wait for the dead camera"
        assert camera.ids()[0] == NEW_IDS_FROM


def test_a_waiting_part_is_reported_at_a_reconfiguration_and_the_next_one_works() -> None:
    triggered = {"trigger": "software", "trigger_timeout_ms": 60_000}
    with watched(drawn_camera(**triggered, ignore_triggers=[1])) as camera:
        camera.trigger("P-1")
        camera.grab(GRAB_TIMEOUT_SECONDS)
        changed(camera, drawn_camera(**triggered))
        camera.trigger("P-2")
        camera.until_frames(1)
        assert [(seen.stamp.part_id, seen.reason) for seen in camera.seen] == [("P-1", "no_frame"), ("P-2", None)]


def test_a_reconfiguration_at_the_end_is_refused() -> None:
    with watched(OLD) as camera:
        pending, late = Answer(camera), Answer(camera)
        camera.camera.reconfigure(NEW, pending)
        camera.camera.interrupt()
        camera.to_the_end()
        camera.camera.reconfigure(NEW, late)
        assert pending.errors == late.errors == ["the line is stopping"]
