"""What keeps the MQTT bridge from its broker is one sentence, and no other broker than the right one gets a result."""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from heatline.edge.bridge.mqtt import Connection, NotConnectedError, Publication, log_in
from heatline.edge.config.bridges import MqttConfig
from heatline.edge.errors import AccessError
from tests.edge.brokers import OPEN, Authority, Broker, Plant, broker_at
from tests.edge.followed_line import WITHIN_SECONDS, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # paho's, of a handshake
WILL, LAST = (Publication(f"line/{name}", b"{}", retain=True) for name in ("will", "last"))


def connect(config: MqttConfig) -> Connection:
    """Connect; raise the sentence with which that fails."""
    connection = Connection(config, "bridge", WILL)
    try:
        connection.open(lambda: None, lambda: False)
    except NotConnectedError:
        connection.close(LAST)
        raise
    return connection


def refusal(config: MqttConfig) -> str:
    """Return the sentence with which a connection fails."""
    with pytest.raises(NotConnectedError) as refused:
        connect(config)
    return str(refused.value)


def accepted(config: MqttConfig) -> None:
    """Check that a message gets through."""
    connection, message = connect(config), Publication("line/result/top", b"{}", "a-1")
    connection.publish(message)
    while not connection.answered:
        connection.process(WITHIN_SECONDS)
    ((answered, reason),) = connection.answered
    assert (answered, reason.is_failure) == (message, False)
    connection.close(LAST)
    with pytest.raises(NotConnectedError):
        connection.process(0.0)


def _fault_of(connection: Connection) -> str:
    """Wait for the end of a connection; return why it ended."""
    try:
        while True:
            connection.process(WITHIN_SECONDS)
    except NotConnectedError as fault:
        return str(fault)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def with_tls(authority: Authority, *, host: str = "127.0.0.1", days: int = 1, more: str = OPEN) -> str:
    """Return mosquitto's settings for a certificate."""
    certificate, key = authority.sign("broker", host, days)
    return f"certfile {certificate}\nkeyfile {key}\n{more}"


def config_for(port: int, authority: Authority, host: str = "127.0.0.1") -> MqttConfig:
    return MqttConfig(broker=f"mqtts://{host}:{port}", ca=authority.certificate)


def test_a_broker_is_verified_by_authority_name_and_date_and_works_again_once_renewed(
    tmp_path: Path, address: str, authority: Authority
) -> None:
    other = Authority(tmp_path, "other-ca")
    broker = Broker(tmp_path, address, with_tls(authority, days=-1))
    config = config_for(broker.port, authority)
    with broker:
        assert "cannot be used (certificate has expired); check mqtt.broker, mqtt.ca" in refusal(config)
    broker.settings = with_tls(authority, host="elsewhere.example")
    with broker:
        assert "certificate is not valid for '127.0.0.1'" in refusal(config)
    broker.settings = with_tls(authority)
    with broker:
        for ca in (other.certificate, None):
            assert "unable to get local issuer certificate" in refusal(msgspec.structs.replace(config, ca=ca))
        accepted(config)
        plain = msgspec.structs.replace(config, broker=f"mqtt://127.0.0.1:{broker.port}", ca=None)
        assert "it may require TLS (mqtts://)" in refusal(plain)
    broker.settings = OPEN
    with broker:
        assert "cannot be used (" in refusal(config)


def test_a_client_certificate_is_shown_and_a_wrong_one_is_told(
    tmp_path: Path, address: str, authority: Authority
) -> None:
    needed = f"require_certificate true\ncafile {authority.certificate}\n{OPEN}"
    certificate, key = authority.sign("bridge")
    foreign = Authority(tmp_path, "foreign-ca").sign("foreign")
    with broker_at(tmp_path / "broker", address, with_tls(authority, more=needed)) as broker:
        config = config_for(broker.port, authority)
        assert "it may require TLS (mqtts://) or a certificate (mqtt.certificate and mqtt.key)" in refusal(config)
        shown = msgspec.structs.replace(config, certificate=foreign[0], key=foreign[1])
        assert "did not take the connection" in refusal(shown)
        accepted(msgspec.structs.replace(config, certificate=certificate, key=key))


def test_a_wrong_password_is_told_and_the_right_one_is_taken(tmp_path: Path, address: str) -> None:
    users, password = tmp_path / "users", tmp_path / "password"
    # As `mosquitto_passwd -b users bridge right` writes it: PBKDF2, 101 rounds, a salt.
    users.write_text(f"bridge:{_hashed('right')}\n")
    password.write_text("wrong\n")
    password.chmod(0o600)
    with broker_at(tmp_path / "broker", address, f"allow_anonymous false\npassword_file {users}") as broker:
        config = MqttConfig(broker=f"mqtt://127.0.0.1:{broker.port}", user="bridge", password_file=password)
        sentence = refusal(config)
        assert "refuses the connection (Not authorized); correct mqtt.user" in sentence
        password.write_text("right\n")
        accepted(config)


def _hashed(password: str) -> str:
    import base64
    import hashlib

    salt = b"twelve bytes"
    derived = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(derived).decode()}"


def test_a_broker_that_is_not_there_is_told(address: str) -> None:
    port = int(address.rpartition(":")[2])
    assert "cannot be used (Connection refused)" in refusal(MqttConfig(broker=f"mqtt://127.0.0.1:{port}"))
    assert "cannot be used (Name or service not known)" in refusal(
        MqttConfig(broker="mqtts://no.such.host.invalid:8883")
    )


def test_another_client_with_the_same_id_is_told(tmp_path: Path, address: str) -> None:
    with broker_at(tmp_path / "broker", address) as broker:
        config = MqttConfig(broker=f"mqtt://127.0.0.1:{broker.port}")
        first = connect(config)
        second = connect(config)
        assert "(Session taken over)" in _fault_of(first)
        for each in (first, second):
            each.close(LAST)


def test_the_broker_publishes_the_last_will_of_a_client_that_vanishes_and_not_of_one_that_logs_off(
    tmp_path: Path, address: str
) -> None:
    with broker_at(tmp_path / "broker", address) as broker, Plant(broker) as plant:
        config = MqttConfig(broker=f"mqtt://127.0.0.1:{broker.port}")
        connect(config).close(LAST)
        vanishing = connect(config)
        vanishing._client._sock_close()  # type: ignore[no-untyped-call]
        wait_until(lambda: bool(plant.of("will")), "the will came")
        connect(config).close(LAST)
        wait_until(lambda: len(plant.of("last")) == 2, "both have logged off")
        assert len(plant.of("will")) == 1


# Files.


def test_a_password_is_read_from_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    file, client = tmp_path / "password", paho.Client(CallbackAPIVersion.VERSION2)
    config = MqttConfig(broker="mqtt://127.0.0.1:1883", user="line1", password_file=file)
    with pytest.raises(AccessError, match=r"cannot be read \(No such file"):
        log_in(client, config)
    file.write_text("ein Paßwort \r\n")
    file.chmod(0o600)
    log_in(client, config)
    assert client.password == "ein Paßwort "
    file.chmod(0o640)
    with pytest.raises(AccessError, match="mode 0640, expected 0600"):
        log_in(client, config)


@pytest.mark.parametrize("spoil", ["missing", "no certificate", "another key"])
def test_a_file_that_cannot_be_used_for_tls_is_an_access_error(
    tmp_path: Path, authority: Authority, spoil: str
) -> None:
    certificate, key = authority.sign("bridge")
    config = MqttConfig(broker="mqtts://b:8883", ca=authority.certificate, certificate=certificate, key=key)
    log_in(paho.Client(CallbackAPIVersion.VERSION2), config)
    changes: dict[str, Callable[[], MqttConfig]] = {
        "missing": lambda: msgspec.structs.replace(config, ca=tmp_path / "none.pem"),
        "no certificate": lambda: msgspec.structs.replace(config, ca=key),
        "another key": lambda: msgspec.structs.replace(config, key=authority.sign("other")[1]),
    }
    with pytest.raises(AccessError, match=re.escape("cannot be used (")):
        log_in(paho.Client(CallbackAPIVersion.VERSION2), changes[spoil]())
