"""Parts of the OPC UA bridge: held results, certificates and limits."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.crypto.permission_rules import User
from asyncua.crypto.security_policies import SecurityPolicyFactory, SecurityPolicyNone
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bridge.line import EVALUATIONS
from heatline.edge.bridge.opcua.address_space import (
    EVENT_FIELDS,
    RESULT_FIELDS,
    node_names,
    values_of,
)
from heatline.edge.bridge.opcua.bridge import METHODS, Error, HeldResult, HeldResults
from heatline.edge.bridge.opcua.server import (
    CONNECTIONS,
    QUEUED_EVENTS,
    REJECTED_AT_MOST,
    SUBSCRIPTIONS,
    Certificates,
    Clients,
    TrustedPolicy,
    fingerprint_of,
)
from heatline.edge.delivery.follow import BYTES_UNACKNOWLEDGED
from heatline.edge.errors import AccessError
from heatline.edge.wire.events import VerdictEvent
from heatline.edge.wire.following import Delivered
from tests.edge.opcua_clients import Identity, make_identity
from tests.edge.wire_examples import DEFECT

PLANT = Path(__file__).parents[2] / "docs" / "plant-opcua.md"


@given(st.lists(st.one_of(st.just("result"), st.just("other"), st.integers(0, 12)), max_size=40), st.booleans())
def test_the_journal_is_acknowledged_up_to_the_first_result_that_waits(steps: list[Any], wait: bool) -> None:
    """Compared with a list that is searched anew at each step. A number acknowledges the result with that number."""
    held = HeldResults(at_most=3, wait=wait)
    expected: list[tuple[int, bool, bool]] = []
    for step in steps:
        if isinstance(step, int):
            there = [(seq, is_result, done) for seq, is_result, done in expected if seq == step and is_result]
            waits = any(not done for _, _, done in there)
            expected = [(seq, is_result, done or (seq == step and is_result)) for seq, is_result, done in expected]
            newest = [seq for seq, is_result, _ in expected if is_result][-3:]
            assert held.acknowledge(f"j-{step}") == (waits if wait else step in newest)
        else:
            seq, is_result = len(expected) + 1, step == "result"
            expected.append((seq, is_result, not (is_result and wait)))
            held.add(Delivered("j", seq, b"{}"), HeldResult(f"j-{seq}", {}, "") if is_result else None)
        through = next((seq - 1 for seq, _, done in expected if not done), len(expected))
        assert (held.done_through.seq if held.done_through else 0) == through
        settled = max((seq for seq, is_result, _ in expected[:through] if is_result), default=0)
        assert (held.settled_through.seq if held.settled_through else 0) == settled
        results = [f"j-{seq}" for seq, is_result, done in expected if is_result and not (wait and done)]
        assert held.ids == (results if wait else results[-3:])


def test_the_numbers_are_those_of_the_specifications() -> None:
    assert EVALUATIONS == {"GOOD": 1, "DEFECT": 2, "NO_VERDICT": 3}
    event = DEFECT.event
    assert isinstance(event, VerdictEvent)
    values = values_of(RESULT_FIELDS, event)
    assert (values["ResultEvaluation"], values["ResultState"], values["IsSimulated"]) == (2, 1, not event.acting)
    assert values["CreationTime"].timestamp() == pytest.approx(event.times.captured_at_ns / 1e9, abs=1e-5)


def test_the_line_sends_no_more_beyond_a_number_or_a_size_of_results() -> None:
    held, large = HeldResults(6, wait=True), b" " * (BYTES_UNACKNOWLEDGED // 4)

    def add(seq: int, header: bytes) -> bool:
        held.add(Delivered("j", seq, header), HeldResult(f"j-{seq}", {}, ""))
        return held.is_full

    assert [add(seq, large) for seq in (1, 2, 3, 4)] == [False, False, False, True]
    held.acknowledge("j-2")
    assert held.is_full, "the first one still waits"
    held.acknowledge("j-1")
    assert [held.is_full, *(add(seq, b"") for seq in (5, 6, 7, 8))] == [False, False, False, False, True]
    assert not HeldResults(0, wait=False).is_full


# Certificates.


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return make_identity(tmp_path_factory.mktemp("identity"), "mes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's own certificate takes long to make."""
    path = tmp_path_factory.mktemp("pki")
    Certificates(path, "line1", "127.0.0.1")
    return path


@pytest.fixture
def certificates(folder: Path) -> Certificates:
    for path in (*folder.glob("allowed/*/*"), *folder.glob("rejected/*")):
        path.unlink()
    return Certificates(folder, "line1", "127.0.0.1")


def test_the_own_certificate_is_made_once_and_names_the_server(folder: Path, certificates: Certificates) -> None:
    again = Certificates(folder, "line1", "127.0.0.1")
    assert fingerprint_of(again.certificate) == fingerprint_of(certificates.certificate)
    assert re.fullmatch(r"urn:.+:heatline:line1", certificates.application_uri)
    assert (folder / "server.key").stat().st_mode & 0o777 == 0o600


def test_the_role_is_that_of_the_folder_and_read_anew(
    folder: Path, certificates: Certificates, identity: Identity
) -> None:
    der = identity.der.read_bytes()
    assert "is not allowed" in (certificates.refusal(der) or "")
    (folder / "allowed" / "read" / "mes.der").write_bytes(der)
    assert certificates.refusal(der) is None
    fingerprint = fingerprint_of(x509.load_der_x509_certificate(der))
    assert certificates.role_of(fingerprint) == "read"
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    (folder / "allowed" / "command" / "mes.pem").write_bytes(pem)
    assert certificates.role_of(fingerprint) == "command"


@pytest.mark.parametrize("shown", [None, b"", b"\x30\x82\xff\xff", b"-----BEGIN", bytes(9000)])
def test_what_is_no_certificate_is_refused_and_not_stored(
    folder: Path, certificates: Certificates, shown: bytes | None
) -> None:
    assert certificates.refusal(shown)
    assert list((folder / "rejected").iterdir()) == []


def test_rejected_certificates_are_bounded_and_the_newest_stay(
    folder: Path, certificates: Certificates, identity: Identity
) -> None:
    for number in range(REJECTED_AT_MOST + 5):
        path = folder / "rejected" / f"old-{number}.der"
        path.write_bytes(b"")
        os.utime(path, ns=(number, number))
    assert certificates.refusal(identity.der.read_bytes())
    found = {path.name for path in (folder / "rejected").iterdir()}
    assert len(found) == REJECTED_AT_MOST
    assert any(name.startswith("mes-") for name in found)
    assert f"old-{REJECTED_AT_MOST + 4}.der" in found


def test_a_file_that_is_no_certificate_does_not_concern_others(
    folder: Path, certificates: Certificates, identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    der = identity.der.read_bytes()
    (folder / "allowed" / "read" / "mes.der").write_bytes(der)
    (folder / "allowed" / "read" / "junk.der").write_bytes(b"junk")
    assert certificates.refusal(der) is None
    assert certificates.role_of(fingerprint_of(x509.load_der_x509_certificate(der))) == "read"
    (logged,) = (record.message for record in caplog.records)
    assert "not all certificates are allowed to read" in logged
    assert "junk.der holds no certificate" in logged


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "server.key").chmod(0o644), "can be used by others than its owner"),
        (lambda folder: (folder / "server.key").unlink(), "cannot be read"),
        (lambda folder: (folder / "server.der").write_bytes(b"junk"), "the next start makes new ones"),
    ],
)
def test_a_damaged_own_pair_is_one_sentence(
    folder: Path, certificates: Certificates, tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    for name in ("server.key", "server.der"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "server.key").chmod(0o600)
    damage(tmp_path)
    with pytest.raises(AccessError, match=sentence):
        Certificates(tmp_path, "line1", "127.0.0.1")


def test_a_certificate_shown_without_security_gives_no_role(
    folder: Path, certificates: Certificates, identity: Identity
) -> None:
    """It is public: whoever shows it without a signature need not own it."""
    der = identity.der.read_bytes()
    (folder / "allowed" / "command" / "mes.der").write_bytes(der)
    plain = SecurityPolicyFactory(SecurityPolicyNone, ua.MessageSecurityMode.None_)
    shown = TrustedPolicy(plain, certificates).create(der).peer_certificate
    assert not shown
    open_to_all, closed = Clients(certificates, unprotected=True), Clients(certificates, unprotected=False)
    reader = open_to_all.get_user(None, certificate=shown)
    assert isinstance(reader, User)
    assert not open_to_all.may_command(reader)
    assert closed.get_user(None, certificate=shown) is None
    assert closed.may_command(closed.get_user(None, certificate=der))


# The document.


def _rows(text: str) -> dict[str, list[str]]:
    cells = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in cells}


def test_the_documented_nodes_are_those_of_the_server() -> None:
    rows = _rows(PLANT.read_text())
    for path, field in node_names().items():
        below = path.removeprefix("VisionSystem.").replace("CAMERA", "NAME")
        assert rows[field.name if ".LatestResult." in path else below][0] == field.kind.name, path
    assert rows["ResultContent"][0] == "String"


def test_the_documented_methods_events_and_errors_are_those_of_the_server() -> None:
    text = PLANT.read_text()
    rows = _rows(text)

    def described(arguments: Any) -> str:
        return (
            ", ".join(f"{name} {kind.name}{'[]' if is_array else ''}" for name, kind, is_array in arguments) or "none"
        )

    for path, (inputs, outputs) in METHODS.items():
        shown = described(outputs) if len(outputs) < len(RESULT_FIELDS) else "all fields of a result, Error Int32"
        name = path.rpartition(".")[2]
        assert rows[name][:2] == [described(inputs), shown], name
    for name, fields in EVENT_FIELDS.items():
        shown = "all fields of a result but ResultContent"
        if len(fields) != len(RESULT_FIELDS):
            shown = ", ".join(f"{field} {kind.name}" for field, kind in fields)
        assert rows[name][0] == shown, name
    for error in Error:
        assert str(int(error)) in rows, error
    for number in (CONNECTIONS, SUBSCRIPTIONS, QUEUED_EVENTS):
        assert f"{number:,}" in text or str(number) in text
