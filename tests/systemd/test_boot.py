"""heatline on a line PC: a real systemd in a container without a network, the real package, the installed unit and a
small bundle. All tests share one boot; each test checks the result of one step."""

from pathlib import Path

import pytest

from heatline.edge import __version__
from tests.needs import need, need_root
from tests.systemd.machines import NEXT_VERSION, Boot, Stick, boot, write_stick

CAMERAS = "top", "boards"
STEPS = {
    "install", "set_up", "start", "page", "reload_to_a_better_bundle", "reload_to_a_broken_bundle", "upgrade",
    "roll_back", "stop",
}  # fmt: skip
LONG_STEPS = {"bridges", "stitching_hangs", "start_with_nonsense"}


@pytest.fixture(scope="module")
def stick(tmp_path_factory: pytest.TempPathFactory) -> Stick:
    need_root()
    need("python3", "systemd-container")
    return write_stick(tmp_path_factory.mktemp("stick") / "stick")


@pytest.fixture(scope="module")
def booted(
    stick: Stick, installed: Path, next_package: Path, tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Boot:  # fmt: skip
    """The boot that all tests share. It takes the steps that the selected tests need. Its log is always printed."""
    binds = {"/stick": stick.path, "/next-package": next_package}
    ours = (item for item in request.session.items if item.path == request.path)
    is_long = any(item.get_closest_marker("long") for item in ours)
    steps = STEPS | LONG_STEPS if is_long else STEPS
    found = boot(tmp_path_factory.mktemp("boot"), installed, binds, steps)
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("", *found.log, sep="\n")
    return found


def test_the_installed_unit_starts_and_systemctl_returns_once_the_line_is_ready(booted: Boot, stick: Stick) -> None:
    installed, started = map(booted.result_of, ("install", "start"))
    assert (installed["exit"], installed["version"]) == (0, f"heatline, version {__version__}"), installed
    assert (started["exit"], started["at_ready"]["ActiveState"]) == (0, "active"), started
    assert started["shown"]["StatusText"].startswith("READY: running, ")
    assert started["uid"] != 0
    verdicts = booted.verdicts_in("start") + booted.verdicts_in("page")
    assert {event["camera"] for event in verdicts} == set(CAMERAS)
    assert {event["bundle"]["digest"] for event in verdicts} == {stick.boards.digest}
    assert {event["verdict"] for event in verdicts} <= {"GOOD", "DEFECT"}


def test_the_page_and_the_evidence_work_in_the_sandbox(booted: Boot) -> None:
    result = booted.result_of("page")
    assert (result["status"]["exit"], result["status"]["report"]["state"]) == (0, "READY")
    assert "<title>heatline</title>" in result["html"]
    assert result["script_bytes"] > 0
    assert result["picture_bytes"] > 0
    state = result["state"]
    assert (state["running"], set(state["cameras"]), state["evidence"]["fault"]) == (True, set(CAMERAS), None)
    assert result["listed"]["folder"] == "/var/lib/heatline/line1/evidence"
    assert result["listed"]["entries"]


@pytest.mark.long
def test_the_bridges_run_beside_the_line_and_outlive_its_restart(booted: Boot) -> None:
    result = booted.result_of("bridges")
    assert set(result["started"].values()) == set(result["stopped"].values()) == {0}
    assert result["before"] == result["after"]
    assert 0 not in result["users"].values()


def test_another_bundle_is_activated_between_two_frames(booted: Boot, stick: Stick) -> None:
    result = booted.result_of("reload_to_a_better_bundle")
    assert result["exit"] == 0, result
    assert result["same_process"]
    assert result["change"]["applied"]
    assert result["change"]["bundle"]["digest"] == stick.better.digest
    events = booted.events_in("reload_to_a_better_bundle")
    at = events.index(result["change"])
    for camera in CAMERAS:
        digests = [event["bundle"]["digest"] for event in events if event.get("camera") == camera]
        assert digests == sorted(digests, key=[stick.boards.digest, stick.better.digest].index), camera
        assert digests[-1] == stick.better.digest
    assert all(event["bundle"]["digest"] == stick.boards.digest for event in events[:at])


def test_a_broken_bundle_is_refused_and_the_old_one_stays_active(booted: Boot, stick: Stick) -> None:
    result, excerpt = booted.result_of("reload_to_a_broken_bundle"), "model_f32.bin has sha256"
    assert result["exit"] != 0, "systemctl reload must fail"
    assert not result["change"]["applied"]
    assert excerpt in result["change"]["detail"]
    assert excerpt in result["shown"]["StatusText"]
    assert result["same_process"]
    verdicts = booted.verdicts_in("reload_to_a_broken_bundle")
    assert {event["bundle"]["digest"] for event in verdicts} == {stick.better.digest}


def test_an_upgrade_and_a_rollback_take_effect_when_the_line_starts_again(booted: Boot) -> None:
    upgraded, back = booted.result_of("upgrade"), booted.result_of("roll_back")
    assert upgraded["still_ran"]
    for result, version in ((upgraded, NEXT_VERSION), (back, __version__)):
        assert (result["exit"], result["version"]) == (0, f"heatline, version {version}"), result
        assert Path(result["runs"]).is_relative_to(result["current"])
        assert result["unit"].endswith("# the later unit\n") == (version == NEXT_VERSION)
    assert back["current"] == booted.result_of("install")["current"]


def test_after_kill_9_the_service_restarts_and_reports_every_frame_in_flight(booted: Boot) -> None:
    assert booted.result_of("roll_back")["restarts"] == 1
    assert_crash_is_reported(booted, "roll_back")


@pytest.mark.long
def test_the_watchdog_ends_a_hung_stage_and_every_frame_in_flight_is_reported(booted: Boot) -> None:
    result = booted.result_of("stitching_hangs")
    assert result["restarts"] == 1
    for words in ("Watchdog timeout", "hangs_or_runs"):
        assert any(words in entry for entry in result["journal"])
    assert_crash_is_reported(booted, "stitching_hangs")


def test_a_stop_is_orderly_and_every_frame_is_reported(booted: Boot) -> None:
    result = booted.result_of("stop")
    assert result["exit"] == 0
    assert (result["shown"]["ActiveState"], result["shown"]["ExecMainStatus"]) == ("inactive", "0")
    last = booted.events_in("stop")[-1]
    assert last["state"] == "STOPPED"
    assert all(account["in_flight"] == 0 for account in last["ledger"].values())


@pytest.mark.long
def test_a_start_with_an_invalid_file_fails_with_the_reason_and_is_not_repeated(booted: Boot) -> None:
    result = booted.result_of("start_with_nonsense")
    assert result["exit"] != 0
    shown = result["shown"]
    assert (shown["ActiveState"], shown["ExecMainStatus"], shown["NRestarts"]) == ("failed", "3", "0")
    assert any("rate_fpm" in entry for entry in result["journal"])


def test_every_run_reports_all_frames_in_order_without_a_gap_in_its_events(booted: Boot) -> None:
    for run in booted.runs():
        seqs = [event["seq"] for event in run if "seq" in event]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), "the count continues over all runs"
        last = dict.fromkeys(CAMERAS, 0)
        for event in run:
            if event["type"] == "verdict":
                assert event["frame_number"] == last[event["camera"]] + 1, event
                last[event["camera"]] += event["frames"]
    assert len({event["journal_id"] for event in booted.events if "seq" in event} - {None}) == 1


def assert_crash_is_reported(booted: Boot, step: str) -> None:
    """Check that a step's last run first reports the frames in flight before; test_journal_of_line checks their ids."""
    verdicts = booted.verdicts_in(step)
    last_run = [event for event in verdicts if event["boot_id"] == verdicts[-1]["boot_id"]]
    in_flight = [event for event in last_run if event["reason"] == "dropped.crashed"]
    assert last_run[: len(in_flight)] == in_flight
    assert {event["camera"] for event in in_flight} == set(CAMERAS)
