"""The OPC UA bridge beside the contract of all bridges: its nodes, who may do what, and clients that mean harm."""

import asyncio
import contextlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.client.ua_client import UaClientState
from asyncua.crypto.permission_rules import User
from asyncua.crypto.security_policies import SecurityPolicyFactory, SecurityPolicyNone

from heatline.edge.bridge.opcua.address_space import EVENT_FIELDS, RESULT_FIELDS, node_names
from heatline.edge.bridge.opcua.bridge import METHODS, Error
from heatline.edge.bridge.opcua.server import (
    CHUNK_BYTES,
    CONNECTIONS,
    QUEUED_EVENTS,
    REJECTED_AT_MOST,
    SUBSCRIPTIONS,
    BridgeServer,
    Certificates,
    TrustedPolicy,
)
from heatline.edge.config.bridges import OpcuaConfig
from heatline.edge.delivery.servers import CommandServer
from heatline.edge.wire.commands import Reply, Selected, refusal
from heatline.edge.wire.events import Handshake
from tests.edge.bridged_line import (
    ROOT,
    BridgedLine,
    Identity,
    Listener,
    OpcuaDoor,
    acknowledge,
    call,
    ids,
    in_loop,
    read,
    until,
    until_held,
    until_read,
)
from tests.edge.followed_line import BUNDLE, DEFECT, GOOD, WITHIN_SECONDS
from tests.edge.secured import begun, free_port
from tests.edge.status_only_line import READY, StatusOnlyLine, a_status
from tests.test_docs import read as read_document
from tests.test_docs import rows

LATEST = "ResultManagement.LatestResult.ResultId"
UNCERTAIN = "UncertainLastUsableValue"


@dataclass
class Served:
    """A line, its bridge in a process, and two clients."""

    line: BridgedLine
    status: StatusOnlyLine
    door: OpcuaDoor
    reader: Identity
    mes: Identity
    waiting: list[Callable[[], None]]
    """Answers to selections of the product `slow`."""


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Identity, Identity]:
    folder = tmp_path_factory.mktemp("identities")
    return Identity("reader", folder), Identity("mes", folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, identities: tuple[Identity, Identity]) -> Iterator[Served]:
    """A bridge that acknowledges what it offered. Its line does not know the product `unknown`."""
    folder, port, waiting = tmp_path_factory.mktemp("opcua"), free_port(), list[Callable[[], None]]()

    def select(request: Any, answer: Callable[[Any], None]) -> None:
        reply: Reply = Selected(product=request.product, bundle=BUNDLE)
        if request.product == "unknown":
            reply = refusal("unknown_product", "there is no product 'unknown'")
        if request.product == "slow":
            waiting.append(lambda: answer(reply))
        else:
            answer(reply)

    door = OpcuaDoor(folder / "opcua", port.number)
    keys = f'listen = "127.0.0.1:{port.number}"\nhold = 50\nacknowledge = "offered"'
    keys += f'\n[commands]\nbind = "ipc://{folder}/commands"'
    with (
        begun(CommandServer(f"ipc://{folder}/commands", select)),
        BridgedLine(folder, "opcua", keys) as line,
        StatusOnlyLine(line.events, a_status(handshake=READY)) as status,
        line.bridge() as bridge,
    ):
        door.allow(identities[0], "read")
        door.allow(identities[1], "command")
        bridge.wait_until_logged("OPC UA: ")
        yield Served(line, status, door, *identities, waiting)
        assert bridge.end() == 0


@in_loop
async def test_a_result_comes_as_event_with_its_fields_and_is_then_acknowledged(served: Served) -> None:
    async with served.door.connected(served.reader) as client:
        at_the_root = await Listener().subscribe(client, "ResultReadyEventType")
        at_the_server = await Listener().subscribe(client, "ResultReadyEventType", "i=2253")
        added = served.line.journal.add(GOOD, DEFECT)
        await until(lambda: len(at_the_root.events) == len(at_the_server.events) == 2, "both events came")
        keys, defect = [each.key for each in added], at_the_server.events[1]
        assert [(each.ResultId, each.ResultEvaluation) for each in at_the_root.events] == [(keys[0], 1), (keys[1], 2)]
        assert (defect.PartId, defect.IsSimulated, defect.EventId) == (f"P-{added[1].seq}", False, keys[1].encode())
        served.line.acked(added[1].seq)
        await until_read(client, LATEST, added[1].key)
        await until_read(client, "Cameras.top.LatestResult.ResultEvaluation", 2)
        latest = await call(client, "ResultManagement.GetResultById", added[1].key)
        assert (latest[0], latest[-1], latest[-2].encode()) == (added[1].key, 0, added[1].header)
        assert latest[3] == 0 or latest[4] == 1, "IsPartial, Completed"
        assert latest[7].timestamp() == pytest.approx(1_790_000_000.123456, abs=1e-5)
        assert math.isnan(latest[-5]), "this event has no score"
        assert (await call(client, "ResultManagement.GetResultById", "none"))[-1] == -5
        assert (await ids(client))[-2:] == keys


@in_loop
async def test_no_value_of_the_line_is_good_while_it_is_silent(served: Served) -> None:
    async with served.door.connected(served.reader) as client:
        await until_read(client, "Line.Heartbeat", 7)
        ledger, status = await read(client, "Cameras.top.Ledger")
        assert (json.loads(ledger)["captured"], status) == (served.status.status.ledger["top"].captured, "Good")
        before = served.status.status
        served.status.status = a_status(state="STOPPED", handshake=Handshake(state="READY", heartbeat=9))
        await until_read(client, "Line.Heartbeat", 7, UNCERTAIN)
        assert await read(client, "Line.Handshake") == ("NOT_READY", "Good")
        assert await read(client, "Line.Reason") == ("stopped", "Good")
        for path in ("Cameras.top.Captured", "Line.Product"):
            assert (await read(client, path))[1] == UNCERTAIN, path
        served.status.status = before
        await until_read(client, "Line.Heartbeat", 7)


@in_loop
async def test_only_a_client_with_the_role_selects_products_and_none_changes_a_node(served: Served) -> None:
    async with served.door.connected(served.mes) as mes:
        listener = await Listener().subscribe(mes, "RecipePreparedEventType")
        for product, answer in {
            "4711": [BUNDLE.digest, True, 0], "unknown": ["", True, -1], "x" * 100_000: ["", True, -1],
            "slow": ["", False, 0], "4712": ["", True, -4],
        }.items():  # fmt: skip
            assert await call(mes, "RecipeManagement.PrepareRecipe", product) == answer
        served.waiting.pop()()
        await until(lambda: len(listener.events) == 3, "the slow product is active")
        told = [(each.ExternalId, each.Error) for each in listener.events]
        assert told == [("4711", 0), ("unknown", -1), ("slow", 0)]
        assert "there is no product 'unknown'" in listener.events[1].Message.Text
        async with served.door.connected(served.reader) as reader:
            heartbeat = mes.get_node(f"{ROOT}.Line.Heartbeat")
            for forbidden in (
                call(reader, "RecipeManagement.PrepareRecipe", "4711"),
                acknowledge(reader, "1"),
                heartbeat.write_value(ua.Variant(1, ua.VariantType.UInt32)),
                mes.nodes.objects.add_object(2, "mine"),
                mes.delete_nodes([heartbeat]),
            ):
                with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                    await forbidden


@in_loop
async def test_clients_without_an_allowed_certificate_are_refused_and_stored(served: Served, tmp_path: Path) -> None:
    unknown, rejected, allowed = Identity("unknown", tmp_path), served.door.folder / "rejected", served.door.folder
    for number in range(REJECTED_AT_MOST + 5):
        (rejected / f"old-{number}.der").touch()
        os.utime(rejected / f"old-{number}.der", ns=(number, number))
    (allowed / "allowed" / "read" / "junk.der").write_bytes(b"junk")  # concerns no other file
    for refused in (await served.door.secured(unknown), served.door.client()):
        with pytest.raises((ua.UaError, ConnectionError, TimeoutError)):
            await refused.connect()
    found = sorted(rejected.iterdir(), key=lambda path: path.lstat().st_mtime_ns)
    assert (len(found), found[0].name) == (REJECTED_AT_MOST, "old-6.der"), "the newest stay"
    assert found[-1].read_bytes() == unknown.der.read_bytes()
    now_allowed = found[-1].rename(allowed / "allowed" / "read" / "unknown.der")
    async with served.door.connected(unknown) as client:
        now_allowed.unlink()
        await until(lambda: client.uaclient.state is not UaClientState.CONNECTED, "the revoked client is disconnected")
    assert (allowed / "server.key").stat().st_mode & 0o777 == 0o600


@in_loop
async def test_no_other_client_can_continue_the_session_of_a_client(served: Served) -> None:
    """asyncua numbers sessions, and would let any connection take over the session with a number."""
    async with served.door.connected(served.mes) as mes:
        token = mes.uaclient.protocol.authentication_token
        for other in (served.door.client(), await served.door.secured(served.reader)):
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


@in_loop
async def test_a_client_that_takes_all_subscriptions_and_vanishes_leaves_none(served: Served) -> None:
    async with served.door.connected(served.mes) as mes:
        vanishing = await served.door.secured(served.reader)
        await vanishing.connect()
        for _ in range(SUBSCRIPTIONS):
            await vanishing.create_subscription(1000, Listener())

        async def is_free() -> bool:
            with contextlib.suppress(ua.uaerrors.BadTooManySubscriptions):
                return bool(await mes.create_subscription(1000, Listener()))
            return False

        assert not await is_free()
        vanishing.uaclient.protocol.transport.abort()
        await until(is_free, "its subscriptions ended")
        with contextlib.suppress(ua.UaError, ConnectionError):
            await vanishing.disconnect()


GARBAGE = {
    "no OPC UA": b"GET / HTTP/1.1\r\nHost: line\r\n\r\n",
    "a chunk too long": struct.pack("<3scI", b"HEL", b"F", CHUNK_BYTES + 1) + bytes(CHUNK_BYTES),
    "too small chunks": struct.pack("<3scI5Ii", b"HEL", b"F", 32, 0, 1, 1, 0, 0, -1),
    "a message out of place": struct.pack("<3scI4I", b"MSG", b"F", 24, 1, 2, 3, 4),
    "an empty message": struct.pack("<3scI", b"HEL", b"F", 8),
}


@in_loop
async def test_connections_without_a_session_are_closed_and_disconnect_none_that_has_one(tmp_path: Path) -> None:
    """Those that send garbage, are silent in numbers beyond the limit, or have closed their session."""
    port = free_port()
    door, config = OpcuaDoor(tmp_path, port.number), OpcuaConfig(listen=f"127.0.0.1:{port.number}", unprotected=True)
    server = BridgeServer("line1", Certificates(tmp_path, "line1", config), config)
    server.iserver.max_pending_activation_seconds = 1.0
    await server.prepare()
    async with server, door.client() as at_work:
        closing = door.client()
        await closing.connect()
        protocol = closing.uaclient.protocol
        await closing.close_session()
        await until(lambda: protocol.transport is None, "its connection ended")
        untrusted = [await asyncio.open_connection("127.0.0.1", port.number) for _ in GARBAGE]
        for (_, writer), data in zip(untrusted, GARBAGE.values(), strict=True):
            writer.write(data)
        for received, _ in untrusted:
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(received.read(), WITHIN_SECONDS)
        silent = [await asyncio.open_connection("127.0.0.1", port.number) for _ in range(CONNECTIONS + 10)]

        async def is_admitted() -> bool:
            with contextlib.suppress(ua.UaError, ConnectionError, TimeoutError):
                async with door.client(1.0) as new:  # it does not notice that it was refused
                    return bool(await new.nodes.objects.read_browse_name())
            return False

        await until(is_admitted, "a new client is admitted")
        assert await at_work.nodes.objects.read_browse_name()
        for received, writer in (*untrusted, *silent):
            with contextlib.suppress(ConnectionError):
                assert await received.read() == b"", "it is closed"
            writer.close()


def test_a_certificate_without_security_gives_no_role(tmp_path: Path, identities: tuple[Identity, Identity]) -> None:
    """It is public: whoever shows it without a signature need not own it."""
    OpcuaDoor(tmp_path, 0).allow(identities[1], "command")
    open_to_all, closed = (Certificates(tmp_path, "line1", OpcuaConfig(unprotected=each)) for each in (True, False))
    plain = SecurityPolicyFactory(SecurityPolicyNone, ua.MessageSecurityMode.None_)
    der = identities[1].der.read_bytes()
    shown = TrustedPolicy(plain, closed).create(der).peer_certificate
    assert not shown
    reader = open_to_all.get_user(None, certificate=shown)
    assert isinstance(reader, User)
    assert open_to_all.role_of(reader.name) is None
    assert closed.get_user(None, certificate=shown) is None
    assert closed.role_of(closed.get_user(None, certificate=der).name) == "command"


@in_loop
async def test_losses_come_again_until_a_later_result_is_acknowledged_and_what_waits_makes_the_newest_uncertain(
    tmp_path: Path, identities: tuple[Identity, Identity]
) -> None:
    """A client that was away would else never hear of a loss, as the count of losses begins with the bridge."""
    port = free_port()
    door = OpcuaDoor(tmp_path / "opcua", port.number)
    door.allow(identities[1], "command")
    with (
        BridgedLine(tmp_path, "opcua", f'listen = "127.0.0.1:{port.number}"\nhold = 3') as line,
        StatusOnlyLine(line.events, a_status(handshake=READY)),
    ):
        line.journal.client().follow("opcua")
        line.journal.add(GOOD)
        line.journal.journal.discard(1)
        added = [each.key for each in line.journal.add(*[GOOD] * 5)]
        for is_second in (False, True):
            with line.bridge() as bridge:
                bridge.wait_until_logged("OPC UA: ")
                async with door.connected(identities[1]) as mes:
                    await until_held(mes, added[:3])  # the notice of the loss takes no place
                    await until_read(mes, "ResultManagement.LostEvents", 1)
                    await until_read(mes, LATEST, added[2], UNCERTAIN)
                    assert line.journal.acked("opcua") <= 0
                    if is_second:
                        assert await acknowledge(mes, added[1]) == [[], 0]
                        await until_held(mes, [added[0], added[2]])
                        await until_read(mes, LATEST, added[2], UNCERTAIN)  # the first one still waits
                        assert await acknowledge(mes, added[1]) == [[-5], -5], "it waits no longer"
                        assert line.journal.acked("opcua") <= 0, "only what is before the first that waits"
                        assert await acknowledge(mes, added[0], "none") == [[0, -5], -5]
                        line.acked(3)
                        await until_held(mes, added[2:])
                        assert await acknowledge(mes, *added[2:]) == [[], 0]
                        await until_read(mes, LATEST, added[4])
                        latest = await call(mes, "ResultManagement.GetResultById", added[4])
                        assert latest[0] == added[4], "the newest can be got even if it is acknowledged"
                        line.acked(6)


def test_the_document_has_the_nodes_methods_events_and_errors_of_the_server() -> None:
    text = read_document("docs/plant-opcua.md")
    described = {name: " | ".join(cells) for name, cells in rows(text).items()}
    for path, field in node_names().items():
        below = path.removeprefix("VisionSystem.").replace("CAMERA", "NAME")
        assert described[field.name if ".LatestResult." in path else below].startswith(f"{field.kind.name} |"), path
    for path, (inputs, outputs) in METHODS.items():
        row = described[path.rpartition(".")[2]]
        for name, kind, is_array in (*inputs, *(outputs if len(outputs) < len(RESULT_FIELDS) else ())):
            assert f"{name} {kind.name}{'[]' if is_array else ''}" in row, path
    for name, fields in EVENT_FIELDS.items():
        shown = "all fields of a result but ResultContent"
        if len(fields) != len(RESULT_FIELDS):
            shown = ", ".join(f"{field} {kind.name}" for field, kind in fields)
        assert f"`{name}` ({shown})" in text.replace("\n", " ")
    assert all(f"`{int(error)}`, " in text for error in Error)
    for number in (CONNECTIONS, SUBSCRIPTIONS, QUEUED_EVENTS):
        assert f"{number:,}" in text or str(number) in text
