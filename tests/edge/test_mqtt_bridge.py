"""`heatline bridge mqtt` in its own process, between a real journal and a real mosquitto: no result is lost."""

import contextlib
import functools
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from heatline.edge.errors import SupersededError
from heatline.edge.wire.following import Delivered
from tests.command import HEATLINE, process_env
from tests.edge.brokers import OPEN, Authority, Broker, Plant
from tests.edge.followed_line import ALARM, DEFECT, GOOD, WITHIN_SECONDS, FollowedLine, wait_until
from tests.edge.lines import notify_socket
from tests.edge.status_only_line import StatusOnlyLine, a_status

CAMERA = '[[cameras]]\nkind = "pattern"\nname = "top"\n'


class Site:
    """A line's file, its journal and a broker."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self._address = folder, address
        self.events = f"ipc://{folder}/events"
        self.broker = Broker(folder, address)  # first: it skips the test without mosquitto, before a line is open
        self.line = FollowedLine(folder / "journal", f"ipc://{folder}/follow")
        self.file = folder / "line1.toml"
        self.write()

    def write(self, keys: str = "", broker: str | None = None, republish_s: float = 0.0) -> None:
        """Write the line's file with further keys of `[mqtt]`; by default, the line hears at once what came."""
        self.file.write_text(
            f'bundle = "none.bundle"\n{CAMERA}\n[events]\nbind = "{self.events}"\n'
            f'[journal]\nbind = "{self.line.address}"\n'
            f'[mqtt]\nbroker = "{broker or f"mqtt://127.0.0.1:{self.broker.port}"}"\nstart = "first"\n'
            f"republish_s = {republish_s}\n{keys}\n"
        )

    @contextlib.contextmanager
    def bridge(self, env: Mapping[str, str] | None = None) -> Iterator["Bridge"]:
        with Bridge(self.file, self.folder, env) as bridge:
            yield bridge


class Bridge:
    """The command in a process of its own, which is killed at the end."""

    def __init__(self, file: Path, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self._log = folder / f"bridge-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [HEATLINE, "bridge", "mqtt", file], stderr=log, stdout=log, env=process_env(env)
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_until_logged(self, text: str) -> None:
        wait_until(lambda: text in self.log, f"the log has {text!r}: {self.log}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WITHIN_SECONDS)

    def __enter__(self) -> "Bridge":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert "Traceback" not in self.log, self.log


@pytest.fixture
def site(tmp_path: Path, address: str) -> Iterator[Site]:
    site = Site(tmp_path, address)
    with contextlib.closing(site.line), contextlib.ExitStack() as open_:
        open_.callback(site.broker.kill)
        yield site


def test_results_come_in_order_and_are_acknowledged_and_the_state_is_retained(site: Site) -> None:
    site.write("prefix = 'acme/plant1'")
    added = good, defect, alarm = site.line.add(GOOD, DEFECT, ALARM)
    with (
        site.broker,
        Plant(site.broker) as plant,
        StatusOnlyLine(site.events, a_status(line="line1")),
        site.bridge() as bridge,
    ):
        site.line.wait_until_acked(3, "mqtt")
        shake = a_status().handshake
        wait_until(lambda: bool(plant.of("alarm")), "the alarm came")
        wait_until(lambda: plant.of("state")[-1].json["heartbeat"] == shake.heartbeat, "the line is heard")
        assert [(each.topic, each.payload) for each in plant.received if "/state" not in each.topic] == [
            ("acme/plant1/line1/result/top", good.header),
            ("acme/plant1/line1/result/top", defect.header),
            ("acme/plant1/line1/alarm", alarm.header),
        ]
        assert plant.ids() + plant.ids("alarm") == [each.key for each in added]
        state = plant.of("state")[-1]
        assert (state.json["online"], state.json["state"], state.json["reason"]) == (True, shake.state, shake.reason)
        assert state.properties["MessageExpiryInterval"] <= 5
        with Plant(site.broker, "acme/+/+/state") as later:
            wait_until(lambda: bool(later.received), "the state is retained")
            assert later.received[0].is_retained
        last = site.line.add(GOOD)
        wait_until(lambda: plant.ids()[-1] == last[0].key, "a later result came")
        assert bridge.end() == 0
        wait_until(lambda: plant.of("state")[-1].json["reason"] == "bridge_stopped", "it has taken its leave")
        assert site.line.acked("mqtt") == 4
        with Plant(site.broker, "acme/#") as later:
            wait_until(lambda: bool(later.received), "the last state is retained")
            assert later.received[0].json["state"] == "NOT_READY"
            assert "MessageExpiryInterval" not in later.received[0].properties


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.long)])
def test_a_broker_that_is_killed_and_has_lost_its_sessions_costs_no_result(site: Site, kills: int) -> None:
    """The subscriber may come back later than the bridge: results wait for it."""
    events: list[Delivered] = []
    site.write(republish_s=5)
    with site.broker, Plant(site.broker) as plant, site.bridge():

        def is_under_load(kill: int) -> bool:
            """The subscriber is back, and the broker has messages in hand and has passed some on."""
            if len(plant.ids()) + 150 > len(events):
                events.extend(site.line.add(GOOD, DEFECT, GOOD))
            return plant.connections == kill + 1 and len(plant.ids()) >= 60 * (kill + 1)

        for kill in range(kills):
            wait_until(functools.partial(is_under_load, kill), f"results flow before kill {kill}")
            site.broker.kill()
            events += site.line.add(DEFECT, DEFECT)
            site.broker.start()
        site.line.wait_until_acked(len(events), "mqtt")
        wait_until(lambda: len(plant.ids()) == len(events), "all came")
        assert set(plant.ids()) == {event.key for event in events}
        for each in plant.of("result"):  # duplicates are the same result
            assert each.payload == next(event for event in events if event.key == each.id).header
        assert plant.connections == kills + 1


def test_what_a_killed_broker_has_taken_and_not_passed_on_comes_again_until_it_is_old(site: Site) -> None:
    """mosquitto sends a subscriber 20 messages before it wants an answer, and holds the others in its memory."""
    site.write(republish_s=60)
    with site.broker, Plant(site.broker) as plant, Plant(site.broker) as other, site.bridge() as bridge:
        plant.goes_on.clear()
        events = site.line.add(*[GOOD] * 60)
        wait_until(lambda: len(other.ids()) == 60, "the broker has all")
        assert site.line.acked("mqtt") == 0
        bridge.end(signal.SIGKILL)
        site.broker.kill()
        plant.goes_on.set()
        site.broker.start()
        site.write(republish_s=1)
        with site.bridge():
            wait_until(lambda: plant.ids() == [event.key for event in events], "all came")
            site.line.wait_until_acked(60, "mqtt")


def test_nothing_is_acknowledged_while_no_broker_answers_and_a_stop_ends_the_bridge(site: Site) -> None:
    events = site.line.add(GOOD, DEFECT)
    with site.bridge() as bridge:
        bridge.wait_until_logged("cannot be used (Connection refused)")
        site.line.wait_until_acked(0, "mqtt")
        assert bridge.end() == 0
        assert bridge.log.count("cannot be used") == 1
    assert site.line.acked("mqtt") == 0
    with site.broker, Plant(site.broker) as plant, site.bridge():
        site.line.wait_until_acked(2, "mqtt")
        wait_until(lambda: plant.ids() == [event.key for event in events], "both came")


def test_the_watchdog_is_fed_while_results_wait_for_a_broker(site: Site) -> None:
    site.line.add(GOOD)
    with notify_socket(site.folder) as systemd, site.bridge(systemd.env) as bridge:
        systemd.wait_for("READY=1")
        site.line.wait_until_acked(0, "mqtt")
        for _ in range(8):  # the first ones may come before the result
            systemd.wait_for("WATCHDOG=1")
        assert bridge.end() == 0
        systemd.wait_for("STOPPING=1")


def test_a_stop_ends_a_bridge_whose_broker_says_nothing(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site.write(broker=f"mqtt://127.0.0.1:{silent.getsockname()[1]}")
        with site.bridge() as bridge:
            silent.settimeout(WITHIN_SECONDS)
            with silent.accept()[0]:
                assert bridge.end(signal.SIGINT) == 0


def test_a_broker_that_comes_back_with_a_renewed_certificate_is_used(site: Site, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("broker", days=-1)
    site.broker.settings = f"certfile {certificate}\nkeyfile {key}\n{OPEN}"
    site.write(f"ca = '{authority.certificate}'\nwait_for_subscriber = false", f"mqtts://127.0.0.1:{site.broker.port}")
    site.line.add(GOOD)
    with site.broker, site.bridge() as bridge:
        bridge.wait_until_logged("cannot be used (certificate has expired)")
        assert site.line.acked("mqtt") <= 0
        site.broker.kill()
        authority.sign("broker")
        site.broker.start()
        site.line.wait_until_acked(1, "mqtt")
        bridge.wait_until_logged("connected to mqtts://")


def test_a_bridge_that_is_killed_leaves_not_ready_and_its_successor_goes_on(site: Site) -> None:
    events = site.line.add(*[GOOD] * 5)
    with site.broker, Plant(site.broker) as plant, StatusOnlyLine(site.events, a_status()):
        with site.bridge() as bridge:
            wait_until(
                lambda: any(each.json["state"] != "NOT_READY" for each in plant.of("state")), "the line is heard"
            )
            bridge.end(signal.SIGKILL)
        wait_until(lambda: plant.of("state")[-1].json["reason"] == "bridge_lost", "the last will came")
        assert (plant.of("state")[-1].json["state"], plant.of("state")[-1].json["online"]) == ("NOT_READY", False)
        events += site.line.add(DEFECT)
        with site.bridge():
            site.line.wait_until_acked(6, "mqtt")
            wait_until(lambda: plant.ids() == [event.key for event in events], "all came, in order")


def test_of_two_bridges_with_one_name_the_older_ends_and_nothing_is_lost(site: Site) -> None:
    events = site.line.add(*[GOOD] * 3)
    with site.broker, Plant(site.broker) as plant, site.bridge() as older:
        site.line.wait_until_acked(3, "mqtt")
        with site.bridge() as newer:
            assert older.process.wait(WITHIN_SECONDS) == SupersededError.exit_code
            (sentence,) = [line for line in older.log.splitlines() if line.startswith("heatline:")]
            assert "superseded" in sentence
            events += site.line.add(DEFECT)
            site.line.wait_until_acked(4, "mqtt")
            wait_until(lambda: plant.ids() == [event.key for event in events], "all came")
            assert newer.end() == 0


def test_an_older_bridge_ends_also_while_its_broker_is_away(site: Site) -> None:
    site.line.add(GOOD)
    with site.bridge() as older:
        site.line.wait_until_acked(0, "mqtt")
        with site.bridge():
            assert older.process.wait(WITHIN_SECONDS) == SupersededError.exit_code
    assert site.line.acked("mqtt") == 0


def test_lost_events_are_told_and_the_next_ones_come(site: Site) -> None:
    events = site.line.add(*[GOOD] * 5)
    site.line.client().follow("mqtt")
    site.line.journal.discard(3)
    with site.broker, Plant(site.broker) as plant, site.bridge() as bridge:
        site.line.wait_until_acked(5, "mqtt")
        wait_until(lambda: len(plant.ids()) == 2, "the others came")
        (lost,) = [each.json for each in plant.of("lost")]
        assert (lost["kind"], lost["first_seq"], lost["last_seq"]) == ("deleted", 1, 3)
        assert lost["journal_id"] == site.line.journal_id
        assert plant.ids() == [event.key for event in events[3:]]
        assert "were deleted before mqtt received them" in bridge.log


def test_the_report_of_a_loss_waits_for_a_subscriber(site: Site) -> None:
    """After an outage, the broker may be back before those who subscribe."""
    site.line.add(*[GOOD] * 5)
    site.line.client().follow("mqtt")
    site.line.journal.discard(3)
    with site.broker, site.bridge() as bridge:
        bridge.wait_until_logged("nobody subscribes to heatline/line1/lost")
        with Plant(site.broker) as plant:
            site.line.wait_until_acked(5, "mqtt")
            wait_until(lambda: len(plant.ids()) == 2, "the others came")
            assert [each.json["last_seq"] for each in plant.of("lost")] == [3]


# What a broker may refuse.


def test_results_that_the_broker_does_not_authorize_wait_until_it_does(site: Site, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic readwrite heatline/line1/state\ntopic read #\n")
    events = site.line.add(GOOD, DEFECT)
    site.broker.settings = f"{OPEN}\nacl_file {rules}"
    with site.broker, Plant(site.broker) as plant, site.bridge() as bridge:
        bridge.wait_until_logged("refuses messages on heatline/line1/result/top (Not authorized)")
        wait_until(lambda: any(each.json["delivery_fault"] for each in plant.of("state")), "the state tells it")
        assert site.line.acked("mqtt") == 0
        rules.write_text("topic readwrite #\n")
        site.broker.kill()
        site.broker.start()
        site.line.wait_until_acked(2, "mqtt")
        wait_until(lambda: plant.ids() == [event.key for event in events], "both came")
        wait_until(lambda: plant.of("state")[-1].json["delivery_fault"] is None, "the fault is over")


def test_events_that_are_too_large_for_the_broker_are_reported_and_the_next_ones_come(site: Site) -> None:
    events = site.line.add(*[GOOD] * 20)
    site.broker.settings = f"{OPEN}\nmax_packet_size 900"
    with site.broker, Plant(site.broker) as plant, site.bridge() as bridge:
        site.line.wait_until_acked(20, "mqtt")
        reports = [each.json for each in plant.of("lost")]
        assert [(each["kind"], each["first_seq"], each["last_seq"]) for each in reports] == [
            ("refused", event.seq, event.seq) for event in events
        ]
        assert plant.ids() == []
        assert bridge.log.count("is reported as lost") == 1
    site.broker.settings = OPEN
    with site.broker, Plant(site.broker) as plant, site.bridge():
        last = site.line.add(GOOD)
        wait_until(lambda: plant.ids() == [last[0].key], "the next one comes")


def test_results_wait_for_a_subscriber_unless_nobody_needs_them(site: Site) -> None:
    events = site.line.add(GOOD, DEFECT)
    with site.broker:
        with site.bridge() as bridge:
            bridge.wait_until_logged("nobody subscribes to heatline/line1/result/top")
            assert site.line.acked("mqtt") == 0
            with Plant(site.broker) as plant:
                site.line.wait_until_acked(2, "mqtt")
                wait_until(lambda: plant.ids() == [event.key for event in events], "both came")
        site.write("wait_for_subscriber = false")
        site.line.add(GOOD)
        with site.bridge():
            site.line.wait_until_acked(3, "mqtt")
