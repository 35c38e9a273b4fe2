"""The MQTT bridge beside the contract of all bridges: its messages, what a broker may refuse, and who it trusts.

Each test has a real mosquitto, which stores nothing and so loses all when it is killed.
"""

import base64
import hashlib
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from heatline.edge.bridge.mqtt import Connection, Messages, NotConnectedError, Publication
from heatline.edge.config.bridges import MqttConfig
from heatline.edge.wire.events import to_frames
from heatline.edge.wire.following import Delivered
from tests.edge.bridged_line import BridgedLine
from tests.edge.brokers import OPEN, Authority, Broker, Plant
from tests.edge.followed_line import ALARM as ALARM_TOPIC
from tests.edge.followed_line import DEFECT, GOOD, WITHIN_SECONDS, wait_until
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.wire_examples import ALARM, CHANGE, GOLDEN, LIVE_ONLY
from tests.edge.wire_examples import DEFECT as DEFECT_EVENT
from tests.test_docs import read, section

RESULT = "heatline/line1/result/top"


class Site(BridgedLine):
    """A line with a bridge, and a broker that is not started."""

    def __init__(self, folder: Path, address: str) -> None:
        self.broker = Broker(folder, address)
        super().__init__(folder, "mqtt")

    def write(self, keys: str = "", republish_s: float = 0.0) -> None:
        """By default, the line hears at once what came."""
        super().write(f'broker = "mqtt://127.0.0.1:{self.broker.port}"\nrepublish_s = {republish_s}\n{keys}')


@pytest.fixture
def site(tmp_path: Path, address: str) -> Iterator[Site]:
    with Site(tmp_path, address) as site:
        yield site
        site.broker.kill()


def test_an_event_is_published_as_it_is_also_of_a_later_version() -> None:
    weather = b'{"type":"weather","schema_version":9,"journal_id":"j","seq":7}'
    examples = {"result/top": DEFECT_EVENT, "alarm": ALARM, "change": CHANGE, "review": GOLDEN["review"]}
    examples["journal"] = LIVE_ONLY
    headers = {topic: to_frames(message)[1] for topic, message in examples.items()}
    for topic, header in {**headers, "weather": weather}.items():
        made = Messages("acme/plant1", "line1").of(Delivered("j", 7, header))
        assert (made.topic, made.payload, made.id) == (f"acme/plant1/line1/{topic}", header, "j-7")
        assert f"| `{topic}` | " in read("docs/plant-mqtt.md") or topic in ("result/top", "weather")


def test_the_state_is_retained_and_says_how_the_bridge_has_ended(site: Site) -> None:
    site.write("prefix = 'acme/plant1'")
    added = site.journal.add(GOOD, ALARM_TOPIC)
    handshake = a_status().handshake
    with site.broker, Plant(site.broker) as plant, StatusOnlyLine(site.events, a_status()):

        def last_state() -> dict[str, object]:
            return dict(plant.of("state")[-1].json) if plant.of("state") else {"reason": None, "heartbeat": None}

        with site.bridge() as bridge:
            wait_until(lambda: last_state()["heartbeat"] == handshake.heartbeat, "the line is heard")
            site.acked(2)
            said = {name: last_state()[name] for name in ("online", "state", "reason", "product", "boot_id")}
            wait_until(lambda: len(plant.of("alarm")) == 1, "the alarm came")
            bridge.end(signal.SIGKILL)
        assert said == {
            "online": True, "state": handshake.state, "reason": handshake.reason, "product": a_status().product,
            "boot_id": a_status().boot_id,
        }  # fmt: skip
        assert [(each.topic, each.payload, each.id) for each in plant.received if "/state" not in each.topic] == [
            ("acme/plant1/line1/result/top", added[0].header, added[0].key),
            ("acme/plant1/line1/alarm", added[1].header, added[1].key),
        ]
        assert plant.of("state")[-1].properties.get("MessageExpiryInterval", 0) <= 5
        wait_until(lambda: last_state()["reason"] == "bridge_lost", "the last will came")
        assert (last_state()["state"], last_state()["online"]) == ("NOT_READY", False)
        with Plant(site.broker, "acme/#") as later:
            wait_until(lambda: bool(later.received), "the last will is retained")
            assert later.received[0].json["reason"] == "bridge_lost"
        with site.bridge() as bridge:
            wait_until(lambda: last_state()["online"] is True, "the next bridge is here")
            assert bridge.end() == 0
            wait_until(lambda: last_state()["reason"] == "bridge_stopped", "it has taken its leave")
        with Plant(site.broker, "acme/#") as later:
            wait_until(lambda: bool(later.received), "the last state is retained")
            (retained,) = later.received
            assert (retained.is_retained, retained.json["state"]) == (True, "NOT_READY")
            assert "MessageExpiryInterval" not in retained.properties


def test_what_a_killed_broker_has_taken_and_not_passed_on_comes_again_until_it_is_old(site: Site) -> None:
    """mosquitto sends a subscriber 20 messages before it wants an answer, and holds the others in its memory."""
    site.write(republish_s=60)
    with site.broker, Plant(site.broker) as plant, Plant(site.broker) as other:
        with site.bridge():
            plant.goes_on.clear()
            events = [event.key for event in site.journal.add(*[GOOD] * 60)]
            wait_until(lambda: len(other.ids()) == 60, "the broker has all")
            assert site.journal.acked("mqtt") == 0
        site.broker.kill()
        plant.goes_on.set()
        site.broker.start()
        site.write(republish_s=0.5)
        with site.bridge():
            wait_until(lambda: plant.ids() == events, "all came")
            site.acked(60)


def test_a_stop_ends_a_bridge_whose_broker_says_nothing(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site.broker.port = silent.getsockname()[1]
        site.write()
        with site.bridge() as bridge:
            silent.settimeout(WITHIN_SECONDS)
            with silent.accept()[0]:
                assert bridge.end(signal.SIGINT) == 0


def test_results_wait_for_a_broker_that_takes_them(site: Site, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic readwrite heatline/line1/state\ntopic read #\n")
    events = [event.key for event in site.journal.add(GOOD, DEFECT)]
    site.broker.settings = f"{OPEN}\nacl_file {rules}"
    with site.bridge() as bridge:
        bridge.wait_until_logged("cannot be used (Connection refused)")
        with site.broker, Plant(site.broker) as plant:
            wait_until(lambda: any(each.json["delivery_fault"] for each in plant.of("state")), "the state tells it")
            assert f"refuses messages on {RESULT} (Not authorized)" in plant.of("state")[-1].json["delivery_fault"]
            assert site.journal.acked("mqtt") == 0
            rules.write_text("topic readwrite #\n")
            site.broker.kill()
            site.broker.start()
            site.acked(2)
            wait_until(lambda: plant.ids() == events, "both came")
            wait_until(lambda: plant.of("state")[-1].json["delivery_fault"] is None, "the fault is over")
        assert bridge.log().count("cannot be used (Connection refused)") <= 2, "not at each attempt"


def test_events_that_are_too_large_for_the_broker_are_reported_and_the_next_ones_come(site: Site) -> None:
    site.journal.add(*[GOOD] * 20)
    site.broker.settings = f"{OPEN}\nmax_packet_size 900"
    with site.broker, Plant(site.broker) as plant, site.bridge() as bridge:
        site.acked(20)
        wait_until(lambda: len(plant.of("lost")) == 20, "each is reported")
        reports = [each.json for each in plant.of("lost")]
        told = [(each["kind"], each["journal_id"], each["first_seq"], each["last_seq"]) for each in reports]
        assert told == [("refused", site.journal.journal_id, seq, seq) for seq in range(1, 21)]
        assert (plant.ids(), bridge.log().count("is reported as lost")) == ([], 1)
        listed = re.findall(r"`(\w+)`", section(read("docs/plant-mqtt.md"), "## Lost"))
        assert set(listed) - {"deleted", "refused"} == reports[0].keys()
        site.broker.kill()
        site.broker.settings = OPEN
        site.broker.start()
        (last,) = site.journal.add(GOOD)
        wait_until(lambda: plant.ids() == [last.key], "the next one comes")


def test_results_and_reports_of_losses_wait_for_a_subscriber_unless_nobody_needs_them(site: Site) -> None:
    events = site.journal.add(*[GOOD] * 3)
    site.journal.client().follow("mqtt")
    site.journal.journal.discard(1)
    with site.broker:
        with site.bridge() as bridge:
            bridge.wait_until_logged("nobody subscribes to heatline/line1/lost")
            with Plant(site.broker, "heatline/line1/lost") as plant:
                wait_until(lambda: len(plant.of("lost")) == 1, "the report came")
                site.acked(1)
            with Plant(site.broker) as plant:
                site.acked(3)
                wait_until(lambda: plant.ids() == [event.key for event in events[1:]], "both came")
        site.write("wait_for_subscriber = false")
        site.journal.add(GOOD)
        with site.bridge():
            site.acked(4)


WILL, LAST = (Publication(f"line/{name}", b"{}") for name in ("will", "last"))
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # paho's, of a handshake


def refusal(config: MqttConfig) -> str:
    """Return the sentence with which a connection fails; empty: a message is taken."""
    connection = Connection(config, "bridge", WILL)
    try:
        connection.open(lambda: None, lambda: False)
        connection.publish(Publication("line/result/top", b"{}", "a-1"))
        while not connection.process(WITHIN_SECONDS):
            pass
    except NotConnectedError as refused:
        return str(refused)
    finally:
        connection.close(LAST)
    return ""


def test_only_a_broker_of_the_authority_with_name_and_valid_date_gets_results(tmp_path: Path, address: str) -> None:
    authority, other, broker = Authority(tmp_path), Authority(tmp_path, "other-ca"), Broker(tmp_path, address)
    config = MqttConfig(broker=f"mqtts://127.0.0.1:{broker.port}", ca=authority.certificate)
    foreign, own = other.sign("foreign"), authority.sign("own")
    local = "127.0.0.1"
    for days, host, more, attempts in [
        (-1, local, "", [({}, "cannot be used (certificate has expired); check mqtt.broker, mqtt.ca")]),
        (1, "elsewhere.example", "", [({}, "certificate is not valid for '127.0.0.1'")]),
        (1, local, "", [
            ({"ca": other.certificate}, "unable to get local issuer certificate"),
            ({"ca": None}, "unable to get local issuer certificate"),
            ({"ca": None, "broker": f"mqtt://127.0.0.1:{broker.port}"}, "it may require TLS (mqtts://)"),
            ({}, ""),
        ]),
        (1, local, f"require_certificate true\ncafile {authority.certificate}", [
            ({}, "or a certificate (mqtt.certificate and mqtt.key)"),
            ({"certificate": foreign[0], "key": foreign[1]}, "did not take the connection"),
            ({"certificate": own[0], "key": own[1]}, ""),
        ]),
    ]:  # fmt: skip
        certificate, key = authority.sign("broker", host, days)
        broker.settings = f"certfile {certificate}\nkeyfile {key}\n{OPEN}\n{more}"
        with broker:
            for changes, sentence in attempts:
                found = refusal(msgspec.structs.replace(config, **changes))
                assert (sentence in found) if sentence else not found, found


def test_a_wrong_password_is_told_and_the_right_one_is_taken(tmp_path: Path, address: str) -> None:
    users, password, salt = tmp_path / "users", tmp_path / "password", b"twelve bytes"
    # As `mosquitto_passwd -b users bridge right` writes it: PBKDF2, 101 rounds, a salt.
    derived = hashlib.pbkdf2_hmac("sha512", "ein Paßwort ".encode(), salt, 101)
    users.write_text(f"bridge:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(derived).decode()}\n")
    password.write_text("wrong\n")
    password.chmod(0o600)
    config = MqttConfig(broker=f"mqtt://127.0.0.1:{address.rpartition(':')[2]}", user="bridge", password_file=password)
    with Broker(tmp_path, address, f"allow_anonymous false\npassword_file {users}"):
        assert "refuses the connection (Not authorized); correct mqtt.user" in refusal(config)
        password.write_text("ein Paßwort \r\n")
        assert refusal(config) == ""
