"""The OPC UA bridge with real, secured clients: results, state, methods, and clients that mean harm."""

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.client.ua_client import UaClientState

from heatline.edge.bridge.opcua.server import CHUNK_BYTES, CONNECTIONS, SUBSCRIPTIONS
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.journal import Record
from heatline.edge.delivery.servers import CommandServer
from heatline.edge.errors import SupersededError
from heatline.edge.wire.commands import Selected, SelectRequest, refusal
from heatline.edge.wire.events import Handshake, JournalEvent, header_of
from tests.command import complaint, heatline
from tests.edge.followed_line import BOOT, BUNDLE, DEFECT, GOOD, FollowedLine, event
from tests.edge.opcua_clients import (
    ROOT,
    WITHIN_SECONDS,
    BridgeProcess,
    Identity,
    Listener,
    ServedBridge,
    acknowledge,
    call,
    ids,
    make_identity,
    read,
    threaded_bridge,
    until,
)
from tests.edge.secured import free_port
from tests.edge.status_only_line import StatusOnlyLine, a_status

READY = Handshake(state="READY", heartbeat=7)


@dataclass
class Setup:
    """A line, its bridge, and two clients."""

    line: FollowedLine
    status: StatusOnlyLine
    bridge: ServedBridge
    reader: Identity
    mes: Identity


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Identity, Identity]:
    folder = tmp_path_factory.mktemp("identities")
    return make_identity(folder, "reader"), make_identity(folder, "mes")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, identities: tuple[Identity, Identity]) -> Iterator[Setup]:
    """A bridge that acknowledges what it offered. Its line selects any product but `unknown`, and `slow` only later."""
    folder = tmp_path_factory.mktemp("opcua")
    addresses = [f"ipc://{folder}/{name}" for name in ("events", "journal", "commands")]
    (folder / "journal-files").mkdir()

    def select(request: Any, answer: Callable[[Any], None]) -> None:
        assert isinstance(request, SelectRequest)
        if request.product == "unknown":
            answer(refusal("unknown_product", "there is no product 'unknown'"))
            return
        reply = Selected(request_id=request.request_id, product=request.product, bundle=BUNDLE)
        delay_s = 1.5 if request.product == "slow" else 0.0
        threading.Timer(delay_s, answer, [reply]).start()

    commands = CommandServer(addresses[2], select)
    commands.start()
    endpoints = ((addresses[0], None), (addresses[1], None), (addresses[2], None))
    with (
        FollowedLine(folder / "journal-files", addresses[1]) as line,
        StatusOnlyLine(addresses[0], a_status(handshake=READY)) as status,
        threaded_bridge(folder / "pki", endpoints, ["top"], hold=50, acknowledge="offered") as bridge,
    ):
        bridge.allow(identities[0], "read")
        bridge.allow(identities[1], "command")
        asyncio.run(_until_heard(bridge, identities[0]))
        yield Setup(line, status, bridge, *identities)
    commands.close()


async def _until_heard(bridge: ServedBridge, identity: Identity) -> None:
    async with bridge.connected(identity) as client:

        async def is_heard() -> bool:
            return await read(client, "Line.Heartbeat") == (7, "Good")

        await until(is_heard, "the bridge hears the line")


def test_a_result_comes_as_event_with_its_fields_and_is_then_acknowledged(served: Setup) -> None:
    async def run() -> None:
        async with served.bridge.connected(served.reader) as client:
            at_the_server, at_the_root = Listener(), Listener()
            for node, listener in ((client.nodes.server, at_the_server), (client.get_node(ROOT), at_the_root)):
                subscription = await client.create_subscription(20, listener)
                await subscription.subscribe_events(node, client.get_node("ns=2;s=ResultReadyEventType"))
            added = served.line.add(GOOD, DEFECT)
            await until(lambda: len(at_the_root.events) == len(at_the_server.events) == 2, "both events came")
            assert [(event.ResultId, event.ResultEvaluation) for event in at_the_root.events] == [
                (added[0].key, 1),
                (added[1].key, 2),
            ]
            defect = at_the_server.events[1]
            assert (defect.PartId, defect.IsSimulated, defect.EventId) == (
                f"P-{added[1].seq}", False, added[1].key.encode()
            )  # fmt: skip
            served.line.wait_until_acked(added[1].seq, "opcua")
            assert await read(client, "ResultManagement.LatestResult.ResultId") == (added[1].key, "Good")
            assert await read(client, "Cameras.top.LatestResult.ResultEvaluation") == (2, "Good")

            latest = await call(client, "ResultManagement.GetResultById", added[1].key)
            assert (latest[0], latest[-1]) == (added[1].key, 0)
            assert latest[-2].encode() == added[1].header
            assert math.isnan(latest[-5])  # this event has no score
            assert (await call(client, "ResultManagement.GetResultById", "none"))[-1] == -5
            assert (await ids(client))[-2:] == [each.key for each in added]

    asyncio.run(run())


def test_the_lines_state_and_ledger_are_told_and_never_good_while_it_is_silent(served: Setup) -> None:
    async def run() -> None:
        async with served.bridge.connected(served.reader) as client:

            async def shows(path: str, value: Any, status: str) -> None:
                async def is_so() -> bool:
                    return await read(client, path) == (value, status)

                await until(is_so, f"{path} is {value}, {status}")

            await shows("Line.Handshake", "READY", "Good")
            assert await read(client, "Line.Heartbeat") == (7, "Good")
            ledger, status = await read(client, "Cameras.top.Ledger")
            assert (json.loads(ledger)["captured"], status) == (served.status.status.ledger["top"].captured, "Good")
            before = served.status.status
            served.status.status = a_status(handshake=Handshake(state="NOT_READY", reason="stopping", heartbeat=8))
            await shows("Line.Reason", "stopping", "Good")
            served.status.status = a_status(state="STOPPED", handshake=Handshake(state="READY", heartbeat=9))
            await shows("Line.Heartbeat", 8, "UncertainLastUsableValue")
            assert (await read(client, "Line.Handshake")) == ("NOT_READY", "Good")
            assert (await read(client, "Line.Reason")) == ("stopped", "Good")
            for path in ("Cameras.top.Captured", "Cameras.top.State", "Line.Product", "Line.Acting"):
                assert (await read(client, path))[1] == "UncertainLastUsableValue", path
            served.status.status = before
            await shows("Line.Heartbeat", 7, "Good")

    asyncio.run(run())


def test_results_that_cannot_be_got_are_counted_and_told(served: Setup) -> None:
    async def run() -> None:
        async with served.bridge.connected(served.reader) as client:
            listener = Listener()
            subscription = await client.create_subscription(20, listener)
            await subscription.subscribe_events(client.get_node(ROOT), client.get_node("ns=2;s=ResultsLostEventType"))
            (lost_before, _), (first, journal_id) = (
                await read(client, "ResultManagement.LostEvents"),
                _next(served.line),
            )
            unjournalled = JournalEvent(
                boot_id=BOOT, seq=first, journal_id=journal_id, previous_seq=0, at_ns=1, line="line1",
                kind="recording", detail="the disk was full", by_topic={"verdict.top.GOOD": 3, "alarm": 1},
            )  # fmt: skip
            uncounted = JournalEvent(  # of a boot that was killed, whose number of events nobody knows
                boot_id=BOOT, seq=first + 1, journal_id=journal_id, previous_seq=0, at_ns=1, line="line1",
                kind="unrecorded", detail="some frames are missing",
            )  # fmt: skip
            newer = header_of(event(first + 2, GOOD, journal_id)).replace(b'"schema_version":2', b'"schema_version":3')
            _journal(served.line, *(("journal", header_of(each)) for each in (unjournalled, uncounted)), (GOOD, newer))
            good = served.line.add(GOOD)[0]
            await until(lambda: len(listener.events) == 3, "each loss is reported")
            assert [event.LostEvents - lost_before for event in listener.events] == [3, 4, 5]
            assert "the disk was full" in listener.events[0].Message.Text
            assert "some frames are missing" in listener.events[1].Message.Text
            assert len({event.EventId for event in listener.events}) == 3
            assert (await read(client, "ResultManagement.LostEvents"))[0] == lost_before + 5
            assert "schema version 3" in (await read(client, "ResultManagement.LastLoss"))[0]
            served.line.wait_until_acked(good.seq, "opcua")

    asyncio.run(run())


def _next(line: FollowedLine) -> tuple[int, str]:
    return line.journal.last_seq + 1, line.journal_id


def _journal(line: FollowedLine, *events: tuple[str, bytes]) -> None:
    first = line.journal.last_seq + 1
    records = [Record(first + n, time.time_ns(), topic, header, None) for n, (topic, header) in enumerate(events)]
    line.journal.append(records, {})
    line.server.wake()


def test_only_a_client_with_the_role_selects_products_and_learns_what_became_of_it(served: Setup) -> None:
    async def run() -> None:
        async with served.bridge.connected(served.mes) as mes:
            listener = Listener()
            subscription = await mes.create_subscription(20, listener)
            await subscription.subscribe_events(mes.get_node(ROOT), mes.get_node("ns=2;s=RecipePreparedEventType"))
            assert await call(mes, "RecipeManagement.PrepareRecipe", "4711") == [BUNDLE.digest, True, 0]
            assert await call(mes, "RecipeManagement.PrepareRecipe", "unknown") == ["", True, -1]
            assert await call(mes, "RecipeManagement.PrepareRecipe", "x" * 100_000) == ["", True, -1]
            assert await call(mes, "RecipeManagement.PrepareRecipe", "slow") == ["", False, 0]
            assert await call(mes, "RecipeManagement.PrepareRecipe", "4711") == ["", True, -4]
            await until(lambda: len(listener.events) == 3, "the slow product is active")
            told = [(event.ExternalId, event.Error) for event in listener.events]
            assert told == [("4711", 0), ("unknown", -1), ("slow", 0)]
            assert "there is no product 'unknown'" in listener.events[1].Message.Text
        async with served.bridge.connected(served.reader) as reader:
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await call(reader, "RecipeManagement.PrepareRecipe", "4711")
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await acknowledge(reader, "1")

    asyncio.run(run())


def test_no_client_can_write_or_change_the_address_space(served: Setup) -> None:
    async def run() -> None:
        async with served.bridge.connected(served.mes) as mes:
            heartbeat = mes.get_node(f"{ROOT}.Line.Heartbeat")
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await heartbeat.write_value(ua.Variant(1, ua.VariantType.UInt32))
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await mes.nodes.objects.add_object(2, "mine")
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await mes.delete_nodes([heartbeat])

    asyncio.run(run())


def test_clients_without_an_allowed_certificate_are_refused_and_stored_to_be_allowed(
    served: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = make_identity(tmp_path, "unknown")

    async def is_refused(identity: Identity) -> None:
        with pytest.raises((ua.UaError, ConnectionError, TimeoutError)):
            async with served.bridge.connected(identity):
                pass

    async def run() -> None:
        await is_refused(unknown)
        with pytest.raises((ua.UaError, ConnectionError)):
            async with served.bridge.client():
                pass
        rejected = list((served.bridge.folder / "rejected").glob("unknown-*.der"))
        assert [each.read_bytes() for each in rejected] == [unknown.der.read_bytes()]
        rejected[0].rename(served.bridge.folder / "allowed" / "read" / "unknown.der")
        async with served.bridge.connected(unknown) as client:
            allowed = served.bridge.folder / "allowed" / "read" / "unknown.der"
            allowed.unlink()
            await until(lambda: _has_ended(client), "the revoked client is disconnected")

    asyncio.run(run())
    refusals = [record.message for record in caplog.records if "refused a client" in record.message]
    assert len(refusals) == 1, "further refusals are logged only after a while"
    assert "certificate 'unknown'" in refusals[0]
    assert "is not allowed; if the fingerprint is the client's, move " in refusals[0]


def _has_ended(client: Client) -> bool:
    return client.uaclient.state is not UaClientState.CONNECTED


def test_a_client_that_closes_its_session_does_not_keep_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatline.edge.bridge.opcua.server.SESSION_WITHIN_SECONDS", 1.0)
    nowhere = (f"ipc://{tmp_path}/none", None)
    endpoints = (nowhere, nowhere, None)

    async def run(bridge: ServedBridge) -> None:
        async with bridge.client() as client:
            protocol = client.uaclient.protocol
            await client.close_session()
            await until(lambda: protocol.transport is None, "the connection ended")

    with threaded_bridge(tmp_path / "pki", endpoints, ["top"], unprotected=True) as served:
        asyncio.run(run(served))


def test_silent_connections_keep_no_client_out_for_ever_and_disconnect_none_that_has_a_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatline.edge.bridge.opcua.server.SESSION_WITHIN_SECONDS", 2.0)
    nowhere = (f"ipc://{tmp_path}/none", None)

    async def run(bridge: ServedBridge, silent: list[socket.socket]) -> None:
        async def is_admitted() -> bool:
            with contextlib.suppress(ua.UaError, ConnectionError, TimeoutError):
                async with Client(bridge.url, timeout=3.0) as new:  # it does not notice that it was refused
                    return (await read(new, "Line.Handshake"))[0] == "NOT_READY"
            return False

        async with bridge.client() as at_work:
            for each in silent:
                await asyncio.get_running_loop().sock_connect(each, ("127.0.0.1", bridge.port))
            await until(is_admitted, "a new client is admitted")
            assert (await read(at_work, "Line.Handshake"))[0] == "NOT_READY"

    with (
        threaded_bridge(tmp_path / "pki", (nowhere, nowhere, None), ["top"], unprotected=True) as served,
        contextlib.ExitStack() as open_,
    ):
        silent = [open_.enter_context(socket.socket()) for _ in range(CONNECTIONS + 10)]
        for each in silent:
            each.setblocking(False)
        asyncio.run(run(served, silent))
        for each in silent:
            each.settimeout(WITHIN_SECONDS)
            assert each.recv(1) == b"", "it is closed"


def test_no_other_client_can_continue_the_session_of_a_client(served: Setup) -> None:
    """asyncua numbers sessions, and would let any connection take over the session with a number."""

    async def run() -> None:
        async with served.bridge.connected(served.mes) as mes:
            token = mes.uaclient.protocol.authentication_token
            for other in (served.bridge.client(), await served.bridge.secured(served.reader)):
                await other.connect_socket()
                try:
                    await other.send_hello()
                    with pytest.raises((ua.UaError, ConnectionError)):  # noqa: PT012  (one is refused before the other)
                        await other.open_secure_channel()
                        other.uaclient.protocol.authentication_token = token
                        await other.uaclient.activate_session(ua.ActivateSessionParameters())
                    with pytest.raises((ua.UaError, ConnectionError)):
                        await call(other, "RecipeManagement.PrepareRecipe", "4711")
                finally:
                    other.disconnect_socket()
            assert (await read(mes, "Line.Heartbeat"))[0] == 7

    asyncio.run(run())


def test_requests_beyond_the_limits_are_refused_and_those_of_others_go_on(served: Setup) -> None:
    async def run() -> None:
        async with served.bridge.connected(served.reader) as client, served.bridge.connected(served.mes) as other:
            for _ in range(SUBSCRIPTIONS):
                await client.create_subscription(20, Listener())
            with pytest.raises(ua.uaerrors.BadTooManySubscriptions):
                await client.create_subscription(20, Listener())
            for unusable in ((), (ua.Variant(7, ua.VariantType.Int32), "2")):
                with pytest.raises(ua.uaerrors.BadUnexpectedError):
                    await call(client, "ResultManagement.GetResultById", *unusable)
            assert (await read(other, "Line.Heartbeat"))[0] == 7

    asyncio.run(run())


GARBAGE = {
    "no OPC UA": b"GET / HTTP/1.1\r\nHost: line\r\n\r\n",
    "a chunk too long": struct.pack("<3scI", b"HEL", b"F", CHUNK_BYTES + 1) + bytes(CHUNK_BYTES),
    "too small chunks": struct.pack("<3scI5Ii", b"HEL", b"F", 32, 0, 1, 1, 0, 0, -1),
    "a message out of place": struct.pack("<3scI4I", b"MSG", b"F", 24, 1, 2, 3, 4),
    "an empty message": struct.pack("<3scI", b"HEL", b"F", 8),
}


def test_a_connection_that_sends_garbage_is_closed(served: Setup) -> None:
    with contextlib.ExitStack() as open_:
        untrusted = {
            name: open_.enter_context(socket.create_connection(("127.0.0.1", served.bridge.port), WITHIN_SECONDS))
            for name in GARBAGE
        }
        for name, data in GARBAGE.items():
            untrusted[name].sendall(data)
        for name, each in untrusted.items():
            try:
                while each.recv(4096):
                    pass
            except TimeoutError:
                pytest.fail(f"{name}: the connection is still open")
            except ConnectionError:
                pass

    async def run() -> None:
        async with served.bridge.connected(served.reader) as client:
            assert (await read(client, "Line.Heartbeat"))[0] == 7

    asyncio.run(run())


def test_the_subscriptions_of_a_killed_client_end(served: Setup) -> None:
    facts = {
        "folder": str(served.bridge.folder),
        "port": served.bridge.port,
        "name": served.reader.name,
        "identities": str(served.reader.folder),
    }
    command = [sys.executable, "-m", "tests.edge.opcua_clients", json.dumps(facts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "subscribed\n"
        assert len(served.bridge.subscriptions) == SUBSCRIPTIONS
        killed.kill()
    asyncio.run(until(lambda: not served.bridge.subscriptions, "the subscriptions of the killed client ended"))
    added = served.line.add(DEFECT)
    served.line.wait_until_acked(added[0].seq, "opcua")


# A bridge whose clients acknowledge.


@pytest.fixture
def line_file(tmp_path: Path) -> tuple[Path, ServedBridge, str]:
    port, journal = free_port(), f"ipc://{tmp_path}/journal"
    file = tmp_path / "line.toml"
    file.write_text(
        f'bundle = "none"\n[[cameras]]\nkind = "pattern"\nname = "top"\n[events]\nbind = "ipc://{tmp_path}/events"\n'
        f'[journal]\nbind = "{journal}"\n'
        f'[opcua]\nlisten = "127.0.0.1:{port.number}"\nhold = 3\nstart = "first"\n'
    )
    served = ServedBridge(tmp_path / "opcua", port.number)
    served.port_holder = port  # type: ignore[attr-defined]
    return file, served, journal


def test_results_wait_for_a_clients_acknowledgement_and_come_again_with_their_ids_after_a_kill(
    line_file: tuple[Path, ServedBridge, str], identities: tuple[Identity, Identity], tmp_path: Path
) -> None:
    file, served, journal = line_file
    served.allow(identities[1], "command")
    (tmp_path / "files").mkdir()

    async def first(added: list[str]) -> None:
        async with served.connected(identities[1]) as mes:

            async def holds(expected: list[str]) -> None:
                async def is_so() -> bool:
                    return await ids(mes) == expected

                await until(is_so, f"{expected} is held")

            latest = "ResultManagement.LatestResult.ResultId"
            await holds(added[:3])  # the notice of the loss takes no place; more wait, so the third is not the newest
            await until(lambda: _reads(mes, latest, (added[2], "UncertainLastUsableValue")), "it is uncertain")
            assert await acknowledge(mes, added[1]) == [[], 0]
            await holds([added[0], added[2]])
            assert await _reads(mes, latest, (added[2], "UncertainLastUsableValue")), "the first one still waits"
            assert await acknowledge(mes, added[0], "none") == [[0, -5], -5]
            await holds(added[2:5])

    async def second(expected: list[str]) -> None:
        await until(served.listens, "the bridge listens")
        async with served.connected(identities[1]) as mes:
            await until(lambda: _holds(mes, expected), f"{expected} came again")
            assert await acknowledge(mes, *expected) == [[], 0]
            assert (await call(mes, "ResultManagement.GetResultById", expected[-1]))[0] == expected[-1], "the newest"
            latest = "ResultManagement.LatestResult.ResultId"
            await until(lambda: _reads(mes, latest, (expected[-1], "Good")), "it is the newest")

    with (
        FollowedLine(tmp_path / "files", journal) as line,
        StatusOnlyLine(f"ipc://{tmp_path}/events", a_status(handshake=READY)),
    ):
        line.client().follow("opcua")
        line.add(GOOD)
        line.journal.discard(1)
        bridge = BridgeProcess(file, served)
        assert bridge.log[0].startswith(f"OPC UA: {served.url}; the server's certificate is ")
        try:
            added = [each.key for each in line.add(*[GOOD] * 5)]
            asyncio.run(first(added))
            line.wait_until_acked(3, "opcua")
        finally:
            bridge.kill()
        failed: list[BaseException] = []
        returned = threading.Event()

        def next_client() -> None:
            try:
                asyncio.run(second(added[2:5]))
                line.wait_until_acked(6, "opcua")
            except BaseException as error:
                failed.append(error)
            finally:
                if not returned.is_set():  # then the signal would end the tests
                    os.kill(os.getpid(), signal.SIGTERM)

        client = threading.Thread(target=next_client)
        client.start()
        result = heatline("bridge", "opcua", file)
        returned.set()
        client.join()
        assert not failed, failed
        assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr


async def _reads(client: Client, path: str, expected: tuple[Any, str]) -> bool:
    return await read(client, path) == expected


async def _holds(client: Client, expected: list[str]) -> bool:
    return await ids(client) == expected


def test_the_bridge_ends_if_another_follows_under_its_name(
    line_file: tuple[Path, ServedBridge, str], tmp_path: Path
) -> None:
    file, served, journal = line_file
    (tmp_path / "files").mkdir()
    with FollowedLine(tmp_path / "files", journal) as line:
        bridge = BridgeProcess(file, served)
        try:
            asyncio.run(until(lambda: "opcua" in line.server.states(), "the bridge follows"))
            with Follower(journal, "opcua", timeout_s=WITHIN_SECONDS) as other:
                line.add(GOOD)
                other.receive()
                assert bridge.process.wait(WITHIN_SECONDS) == SupersededError.exit_code
        finally:
            bridge.kill()
    assert any("refuses opcua (superseded)" in each for each in bridge.log)


def test_the_report_of_a_loss_comes_again_until_a_client_has_acknowledged_a_later_result(
    tmp_path: Path, identities: tuple[Identity, Identity]
) -> None:
    """A client that was away would else never hear of it, as the count of losses begins with the bridge."""
    journal, nowhere = f"ipc://{tmp_path}/journal", (f"ipc://{tmp_path}/none", None)
    (tmp_path / "files").mkdir()
    with FollowedLine(tmp_path / "files", journal) as line:
        first, journal_id = _next(line)
        report = JournalEvent(
            boot_id=BOOT, seq=first, journal_id=journal_id, previous_seq=0, at_ns=1, line="line1",
            kind="recording", detail="the disk was full", by_topic={"verdict.top.GOOD": 1},
        )  # fmt: skip
        _journal(line, ("journal", header_of(report)))
        result = line.add(GOOD)[0]
        for is_acknowledged in (False, True):
            endpoints = (nowhere, (journal, None), None)
            with threaded_bridge(tmp_path / "pki", endpoints, ["top"], hold=1) as bridge:
                bridge.allow(identities[1], "command")

                async def run(bridge: ServedBridge = bridge, is_acknowledged: bool = is_acknowledged) -> None:
                    async with bridge.connected(identities[1]) as mes:
                        await until(lambda: _holds(mes, [result.key]), "both came, though the window is one")
                        assert (await read(mes, "ResultManagement.LostEvents"))[0] == 1
                        assert line.acked("opcua") <= 0
                        if is_acknowledged:
                            assert await acknowledge(mes, result.key) == [[], 0]

                asyncio.run(run())
                if is_acknowledged:
                    line.wait_until_acked(result.seq, "opcua")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", "has no table [opcua]; add one"),
        ('[opcua]\nlisten = "0.0.0.0:4840"\nunprotected = true', "remove unprotected, or listen on this machine alone"),
        ("[opcua]\nhold = 0", "see docs/config.md"),
        ('[opcua]\nname = "a b"', "see docs/config.md"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(tmp_path: Path, table: str, sentence: str) -> None:
    file = tmp_path / "line.toml"
    cameras = 'bundle = "none"\n[[cameras]]\nkind = "pattern"\nname = "top"\n'
    file.write_text(f'{cameras}[journal]\nbind = "ipc://{tmp_path}/journal"\n{table}\n')
    result = heatline("bridge", "opcua", file)
    assert (result.returncode, sentence in complaint(result)) == (3, True), result.stderr
