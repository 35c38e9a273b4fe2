"""heatline on a line PC: a real systemd, booted in a container without a network, the package as it is handed out, the
unit as it is installed, a trained bundle. One boot for all; each test looks at what one step saw."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edge import __version__
from tests.systemd.boot.container import Boot, boot, hindrance
from tests.systemd.boot.packages import NEXT_VERSION
from tests.systemd.boot.stick import Stick, write_stick

CAMERAS = "top", "boards"


@pytest.fixture(scope="module")
def stick(tmp_path_factory: pytest.TempPathFactory) -> Stick:
    why_not = hindrance()
    if why_not is not None:
        pytest.skip(why_not)
    return write_stick(tmp_path_factory.mktemp("stick") / "stick")


@pytest.fixture(scope="module")
def booted(
    stick: Stick,
    package: Path,
    next_package: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Boot:
    """The one boot. Its log is printed, also where all is well."""
    binds = {"/stick": stick.path, "/package": package, "/next-package": next_package}
    found = boot(tmp_path_factory.mktemp("boot"), binds)
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("", *found.log, sep="\n")
    return found


# Install, start, look.


def test_it_installs_without_a_network(booted: Boot) -> None:
    seen = booted.saw("install")
    assert seen["network"] == ["lo"]
    assert seen["exit"] == 0, seen
    assert seen["version"] == f"heatline, version {__version__}"


def test_check_accepts_the_line(booted: Boot) -> None:
    seen = booted.saw("set_up")
    assert seen["exit"] == 0, seen
    assert seen["stdout"].startswith("/etc/heatline/line1.toml can be run in f32")


def test_start_returns_once_the_line_is_ready(booted: Boot) -> None:
    seen = booted.saw("start")
    assert seen["exit"] == 0, seen
    assert seen["at_ready"]["ActiveState"] == "active"
    assert seen["shown"]["StatusText"].startswith("READY: running, ")


def test_both_cameras_are_inspected_with_the_new_bundle(booted: Boot, stick: Stick) -> None:
    verdicts = booted.verdicts_in("start") + booted.verdicts_in("status")
    assert {event["camera"] for event in verdicts} == set(CAMERAS)
    assert {event["bundle"]["digest"] for event in verdicts} == {stick.boards.digest}
    assert {event["verdict"] for event in verdicts} <= {"GOOD", "DEFECT"}


def test_status_is_ready_as_text_and_json(booted: Boot) -> None:
    seen = booted.saw("status")
    assert (seen["exit"], seen["in_words"]["exit"]) == (0, 0), seen
    assert seen["report"]["state"] == "READY"
    assert seen["report"]["heartbeat"] > 0
    assert seen["in_words"]["stdout"].startswith("line1: READY")


def test_it_runs_without_rights_and_systemd_finds_little_exposed(booted: Boot) -> None:
    seen = booted.saw("sandbox")
    assert seen["uid"] != 0
    assert seen["score"] <= 2.0, seen["exposed"]


# Reload and select.


def test_another_bundle_is_activated_between_two_frames(booted: Boot, stick: Stick) -> None:
    seen = booted.saw("reload_to_a_better_bundle")
    assert seen["exit"] == 0, seen
    assert seen["same_process"]
    assert seen["change"]["applied"]
    assert seen["change"]["bundle"]["digest"] == stick.better.digest
    heard = booted.heard_in("reload_to_a_better_bundle")
    at = heard.index(seen["change"])
    for camera in CAMERAS:
        digests = [event["bundle"]["digest"] for event in heard if event.get("camera") == camera]
        assert digests == sorted(digests, key=[stick.boards.digest, stick.better.digest].index), camera
        assert digests[-1] == stick.better.digest
    assert all(event["bundle"]["digest"] == stick.boards.digest for event in heard[:at])


def test_another_threshold_changes_a_verdict(booted: Boot) -> None:
    seen = booted.saw("reload_to_another_threshold")
    assert seen["exit"] == 0, seen
    assert seen["same_process"]
    before, after = seen["before"], seen["after"]
    assert after["score_threshold"] == pytest.approx(seen["threshold"])
    assert after["frame_score"] == pytest.approx(before["frame_score"], abs=1e-3)
    assert {before["verdict"], after["verdict"]} == {"GOOD", "DEFECT"}


@pytest.mark.parametrize(
    ("step", "says"), [("reload_to_a_broken_bundle", "model_f32.bin has sha256"), ("reload_to_nonsense", "rate_fpm")]
)
def test_an_unusable_setup_is_refused_and_the_old_one_stays_active(
    booted: Boot, stick: Stick, step: str, says: str
) -> None:
    seen = booted.saw(step)
    assert seen["exit"] != 0, "systemctl reload must fail"
    assert not seen["change"]["applied"]
    assert says in seen["change"]["detail"]
    assert says in seen["shown"]["StatusText"]
    assert seen["same_process"]
    assert {event["bundle"]["digest"] for event in booted.verdicts_in(step)} == {stick.better.digest}


def test_a_selected_product_is_activated_and_events_name_it(booted: Boot, stick: Stick) -> None:
    seen = booted.saw("select_another_product")
    assert seen["exit"] == 0, seen
    assert json.loads(seen["stdout"])["product"] == "lids"
    assert seen["change"]["product"] == "lids"
    for camera in CAMERAS:
        last = [event for event in booted.verdicts_in("select_another_product") if event["camera"] == camera][-1]
        assert (last["product"], last["bundle"]["digest"]) == ("lids", stick.better.digest)
        assert last["score_threshold"] == pytest.approx(stick.better.manifest.calibration.score_threshold)


def test_no_frame_is_lost_during_these_changes(booted: Boot) -> None:
    run = booted.runs()[0]
    last = run[-1]
    assert last["state"] == "STOPPED"
    assert sum(event["type"] == "change" for event in run) == 5
    for camera, account in last["ledger"].items():
        verdicts = [event for event in run if event["type"] == "verdict" and event["camera"] == camera]
        assert {event["verdict"] for event in verdicts} <= {"GOOD", "DEFECT"}
        assert account["captured"] == account["inspected"] == len(verdicts)


def test_the_selected_product_is_active_after_a_restart(booted: Boot) -> None:
    verdicts = [event for run in booted.runs()[1:] for event in run if event["type"] == "verdict"]
    assert {event["product"] for event in verdicts} == {"lids"}


# Upgrade and roll back.


def test_an_upgrade_takes_effect_at_the_lines_restart(booted: Boot) -> None:
    seen = booted.saw("upgrade")
    assert seen["exit"] == 0, seen
    assert seen["still_ran"]
    assert seen["version"] == f"heatline, version {NEXT_VERSION}"
    assert seen["runs_in_current"]


def test_rollback_activates_the_former_version(booted: Boot) -> None:
    seen = booted.saw("roll_back")
    assert seen["exit"] == 0, seen
    assert seen["version"] == f"heatline, version {__version__}"
    assert seen["current"] == booted.saw("install")["current"]
    assert seen["runs_in_current"]


# Faults.


def test_a_missing_camera_does_not_restart_the_service(booted: Boot) -> None:
    """Probes alone feed the watchdog."""
    seen = booted.saw("no_camera")
    assert seen["exit"] == 0, seen
    assert (seen["shown"]["ActiveState"], seen["shown"]["NRestarts"]) == ("active", "0")
    first, last = seen["first"], seen["last"]
    assert (last["state"], last["reason"]) == ("NOT_READY", "no_camera")
    assert last["heartbeat"] > first["heartbeat"]
    assert first["status"]["boot_id"] == last["status"]["boot_id"]
    assert last["status"]["ledger"]["gone"]["captured"] == 0, "a probe is no frame"


def test_a_second_line_on_the_same_address_does_not_disturb_the_first(booted: Boot) -> None:
    seen = booted.saw("one_address_for_two")
    assert seen["exit"] != 0
    assert "status=7/" in seen["ends"][-1]
    assert seen["same_process"]


def test_after_kill_9_the_service_restarts_and_reports_every_frame_in_flight(booted: Boot) -> None:
    assert booted.saw("kill_9")["restarts"] == 1
    assert_crash_is_told(booted, "kill_9")


@pytest.mark.parametrize("stage", ["stitching", "publishing"])
def test_the_watchdog_ends_a_hung_stage_and_the_journal_shows_it(booted: Boot, stage: str) -> None:
    seen = booted.saw(f"{stage}_hangs")
    assert seen["restarts"] == 1
    assert any("Watchdog timeout" in said for said in seen["journal"])
    assert any("hangs_or_runs" in said for said in seen["journal"])


@pytest.mark.parametrize("stage", ["stitching", "publishing"])
def test_after_a_hung_stage_every_frame_in_flight_is_reported(booted: Boot, stage: str) -> None:
    assert_crash_is_told(booted, f"{stage}_hangs")


def test_a_stop_is_orderly_and_every_frame_is_reported(booted: Boot) -> None:
    seen = booted.saw("stop")
    assert seen["exit"] == 0
    assert (seen["shown"]["ActiveState"], seen["shown"]["ExecMainStatus"]) == ("inactive", "0")
    last = booted.heard_in("stop")[-1]
    assert last["state"] == "STOPPED"
    assert all(account["in_flight"] == 0 for account in last["ledger"].values())


def test_a_start_with_an_invalid_file_is_one_sentence_and_not_repeated(booted: Boot) -> None:
    seen = booted.saw("start_with_nonsense")
    assert seen["exit"] != 0
    shown = seen["shown"]
    assert (shown["ActiveState"], shown["ExecMainStatus"], shown["NRestarts"]) == ("failed", "3", "0")
    assert any("rate_fpm" in said for said in seen["journal"])


# Over all of it.


def test_every_run_numbers_its_events_without_a_gap(booted: Boot) -> None:
    for run in booted.runs():
        seqs = [event["seq"] for event in run if "seq" in event]
        assert all(after == before + 1 for before, after in pairwise(seqs)), "the journal counts on over all runs"
    (journal_id,) = {event["journal_id"] for event in booted.events if "seq" in event}
    assert journal_id is not None


def test_every_run_reports_all_frames_of_each_camera_in_order(booted: Boot) -> None:
    for run in booted.runs():
        told = dict.fromkeys(CAMERAS, 0)
        for event in run:
            if event["type"] == "verdict":
                assert event["frame_number"] == told[event["camera"]] + 1, event
                told[event["camera"]] += event["frames"]


def test_the_ledger_is_balanced_at_all_times(booted: Boot) -> None:
    accounts = [account for event in booted.events if event["type"] == "status" for account in event["ledger"].values()]
    for account in accounts:
        gone = account["inspected"] + sum(account["dropped"].values()) + sum(account["failed"].values())
        assert account["captured"] == gone + account["in_flight"]


def assert_crash_is_told(booted: Boot, step: str) -> None:
    """The last two runs that a step heard: the second begins with those frames of each camera that the first left
    untold, and before it tells of any other."""
    heard = booted.verdicts_in(step)
    risen = [event for event in heard if event["boot_id"] == heard[-1]["boot_id"]]
    before = [event for event in heard if event["boot_id"] != heard[-1]["boot_id"]]
    died = [event for event in before if event["boot_id"] == before[-1]["boot_id"]]
    told = [event for event in risen if event["reason"] == "dropped.crashed"]
    assert risen[: len(told)] == told
    assert {event["camera"] for event in told} == set(CAMERAS)
    unsent = 0
    for event in told:
        last = next(each for each in reversed(died) if each["camera"] == event["camera"])
        assert event["frame_id"] > _last_frame_id(last)
        unsent += event["frame_id"] - _last_frame_id(last) - 1
        assert event["frames"] == _last_frame_id(event) - event["frame_id"] + 1
    # What lies between is in the journal, and had not been sent: the numbers show it.
    assert unsent == 0 or risen[0]["seq"] > died[-1]["seq"] + 1


def _last_frame_id(event: dict[str, Any]) -> int:
    return int(event["last_frame_id"] or event["frame_id"])
