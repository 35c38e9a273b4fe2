"""The Modbus server: what the standard demands, and what clients that are slow, hostile or many cannot do."""

import contextlib
import logging
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from heatline.edge.bridge.modbus.registers import COMMANDS, LINE, MAILBOX, RESPONSE
from heatline.edge.errors import DeliveryError
from tests.edge.followed_line import WITHIN_SECONDS
from tests.edge.modbus_plc import Plc, Served, served
from tests.edge.secured import free_port
from tests.test_docs import read

READ_LINE = (4, LINE.address, LINE.end - LINE.address)
OTHER_PROTOCOL = struct.pack(">HHHBBHH", 1, 7, 6, 1, *READ_LINE)
NO_FUNCTION, NO_ADDRESS, BAD_VALUE = 1, 2, 3


@pytest.fixture
def server(address: str) -> Iterator[Served]:
    with served(address) as server:
        yield server


def request(function: int, *words: int, transaction: int = 1, unit: int = 1, data: bytes = b"") -> bytes:
    pdu = bytes([function]) + struct.pack(f">{len(words)}H", *words) + data
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), WITHIN_SECONDS) as client:
        yield client


def reply_to(client: socket.socket, data: bytes) -> tuple[int, int, bytes]:
    """Send a request; return transaction, unit, and function code with what follows."""
    client.sendall(data)
    return next_reply(client)


def next_reply(client: socket.socket) -> tuple[int, int, bytes]:
    transaction, protocol, length, unit = struct.unpack(">HHHB", exactly(client, 7))
    assert protocol == 0
    return transaction, unit, exactly(client, length - 1)


def exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = client.recv(count - len(data))
        assert part, "the connection was closed"
        data += part
    return data


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def is_refused(client: socket.socket) -> bool:
    client.sendall(request(*READ_LINE))
    return is_closed(client)


def test_a_plc_reads_by_both_functions_and_writes_only_commands(server: Served) -> None:
    plc = server.plc()
    server.call(server.bank.put, LINE, {"heartbeat": 7, "losses": 70000})
    by_input = plc.client.read_input_registers(LINE.address, count=LINE.end - LINE.address, device_id=1)
    by_holding = plc.client.read_holding_registers(LINE.address, count=LINE.end - LINE.address, device_id=1)
    assert by_input.registers == by_holding.registers
    values = plc.read(LINE)
    assert (values["heartbeat"], values["losses"], values["sequence_begin"]) == (7, 70000, 1)
    plc.command(0, camera=2, part_id="P-1")
    assert plc.read(COMMANDS)["part_id"] == "P-1"
    assert plc.read(COMMANDS)["camera"] == 2
    both = plc.client.readwrite_registers(read_address=200, read_count=2, write_address=200, values=[1, 2], device_id=1)
    assert both.registers == [1, 2], "what was written in the same request is read"


@pytest.mark.parametrize("word_order", ["high_first", "low_first"])
def test_the_word_order_is_as_configured(address: str, word_order: str) -> None:
    with served(address, word_order=word_order) as server:
        plc = server.plc(word_order="big" if word_order == "high_first" else "little")
        server.call(server.bank.put, MAILBOX, {"number": 0x12345678, "seq": 2**53 + 1})
        assert (plc.read(MAILBOX)["number"], plc.read(MAILBOX)["seq"]) == (0x12345678, 2**53 + 1)
        plc.acknowledge(0x9ABCDEF0)
        assert server.call(server.bank.number, COMMANDS, "acknowledge") == 0x9ABCDEF0


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (request(6, LINE.addresses["heartbeat"], 1), NO_ADDRESS),
        (request(6, RESPONSE.addresses["outcome"], 0), NO_ADDRESS),
        (request(16, COMMANDS.end - 1, 2, data=b"\x04\0\0\0\0"), NO_ADDRESS),  # its last register is not a command's
        (request(23, 0, 1, LINE.address, 1, data=b"\x02\0\0"), NO_ADDRESS),
        (request(4, LINE.end - 1, 2), NO_ADDRESS),
        (request(4, 65535, 2), NO_ADDRESS),
        (request(4, 0, 0), BAD_VALUE),
        (request(4, 0, 126), BAD_VALUE),
        (request(16, COMMANDS.address, 2, data=b"\x02\0\0"), BAD_VALUE),
        (request(3, 0), BAD_VALUE),
        (request(1, 0, 1), NO_FUNCTION),
        (request(5, 0, 0xFF00), NO_FUNCTION),
        (request(99), NO_FUNCTION),
    ],
)
def test_what_cannot_be_done_has_the_exception_of_the_standard(server: Served, sent: bytes, code: int) -> None:
    with connected(server.port) as client:
        _, _, reply = reply_to(client, sent)
        assert reply == bytes([sent[7] | 0x80, code])
        assert reply_to(client, request(*READ_LINE))[2][0] == 4, "the connection stays usable"


def test_nothing_is_written_of_a_request_that_is_refused(server: Served) -> None:
    with connected(server.port) as client:
        reply_to(client, request(16, COMMANDS.end - 1, 2, data=b"\x04\1\1\1\1"))
        _, _, reply = reply_to(client, request(3, COMMANDS.end - 1, 1))
    assert reply == b"\x03\x02\0\0"


@pytest.mark.parametrize("unit", [0, 1, 9, 255])
def test_every_unit_is_answered(server: Served, unit: int) -> None:
    with connected(server.port) as client:
        assert reply_to(client, request(*READ_LINE, unit=unit))[1] == unit


def test_requests_that_arrive_together_are_all_answered_in_order(server: Served) -> None:
    with connected(server.port) as client:
        client.sendall(b"".join(request(6, COMMANDS.address, n, transaction=n) for n in range(1, 301)))
        assert [next_reply(client)[0] for _ in range(300)] == list(range(1, 301))
        client.sendall(request(*READ_LINE)[:5])
        client.sendall(request(*READ_LINE)[5:])
        assert next_reply(client)[2][0] == 4, "a request in two pieces"


def test_garbage_closes_only_its_own_connection_and_is_not_logged(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    plc = server.plc()
    with caplog.at_level(logging.DEBUG):
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 400, b"\xff" * 20, b"\0\1\0\0\0\1\1\4", OTHER_PROTOCOL):
            with connected(server.port) as client:
                client.sendall(garbage)
                assert is_closed(client)
        with connected(server.port) as client:
            for wrong in (request(4, 0, 0), request(3, 0), request(6, 9999, 1), request(99)):
                reply_to(client, wrong)
        assert plc.read(LINE)["sequence_begin"] == 0
    assert [each for each in caplog.records if each.levelno > logging.DEBUG] == []


def test_a_client_that_floods_and_reads_nothing_delays_no_other(server: Served) -> None:
    plc = server.plc()
    with socket.socket() as client:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            client.setsockopt(socket.SOL_SOCKET, option, 4096)
        client.connect(("127.0.0.1", server.port))
        client.settimeout(0.2)
        with contextlib.suppress(TimeoutError):  # its requests are not even received any more
            for _ in range(1000):
                client.sendall(request(*READ_LINE) * 1000)
            pytest.fail("the server takes requests without end")
        for n in range(20):
            plc.acknowledge(n)
        assert server.call(server.bank.number, COMMANDS, "acknowledge") == 19


def test_a_client_that_does_not_read_its_replies_is_disconnected(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatline.edge.bridge.modbus.server.IDLE_SECONDS", 0.5)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.settimeout(WITHIN_SECONDS)
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                client.sendall(request(4, MAILBOX.address, MAILBOX.end - MAILBOX.address) * 100)
        reset = select.poll()
        reset.register(client, 0)  # errors are always reported
        assert reset.poll(WITHIN_SECONDS * 1000)


def test_a_new_connection_takes_the_place_of_the_oldest_of_its_address(address: str) -> None:
    """So who attacks from a client's own address ends it, which the document names as a limit."""
    assert "**whoever connects from a client's address can disconnect that client**" in read("docs/security.md")
    with served(address, max_connections=3) as server, contextlib.ExitStack() as open_:
        clients = [open_.enter_context(connected(server.port)) for _ in range(3)]
        for client in (*clients, clients[0]):
            reply_to(client, request(*READ_LINE))
        fourth = open_.enter_context(connected(server.port))
        reply_to(fourth, request(*READ_LINE))
        assert is_closed(clients[0])
        for client in (clients[1], clients[2], fourth):
            reply_to(client, request(*READ_LINE))


def test_an_address_with_many_connections_gives_one_up_to_another_and_takes_none(address: str) -> None:
    with served(address, max_connections=3) as server, contextlib.ExitStack() as open_:

        def client(source: str) -> socket.socket:
            return open_.enter_context(
                socket.create_connection(("127.0.0.1", server.port), WITHIN_SECONDS, (source, 0))
            )

        many = [client("127.0.0.3") for _ in range(3)]
        for each in many:
            reply_to(each, request(*READ_LINE))
        plc = client("127.0.0.2")
        reply_to(plc, request(*READ_LINE))
        assert is_closed(many[0])
        newest = client("127.0.0.3")
        reply_to(newest, request(*READ_LINE))
        assert is_closed(many[1]), "its own oldest one"
        third = client("127.0.0.4")
        reply_to(third, request(*READ_LINE))
        assert is_closed(many[2])
        assert is_refused(client("127.0.0.5")), "the others have one each"
        for each in (plc, newest, third):
            reply_to(each, request(*READ_LINE))


def test_a_silent_connection_is_closed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatline.edge.bridge.modbus.server.IDLE_SECONDS", 0.05)
    with served(address) as server:
        for begun in (b"", request(*READ_LINE)[:9]):
            with connected(server.port) as client:
                client.sendall(begun)
                assert is_closed(client)


def test_only_allowed_addresses_may_connect() -> None:
    port = free_port()
    host = port.reached.removeprefix("tcp://").rpartition(":")[0]
    if host == "127.0.0.1":
        pytest.skip("this machine has no address but loopback")
    for allow, is_served in (["10.255.255.255"], False), ([f"{host}/32"], True):
        with served(port.bound, allow=allow) as server:
            with socket.create_connection((host, server.port), WITHIN_SECONDS) as client:
                if is_served:
                    assert reply_to(client, request(*READ_LINE))[2][0] == 4
                else:
                    assert is_closed(client)
            with Plc(server.port) as plc:  # this machine's own programs
                assert plc.read(LINE)["heartbeat"] == 0


def test_an_address_in_use_is_one_sentence(server: Served) -> None:
    sentence = r"cannot listen on 127\.0\.0\.1:\d+ .*set another one in modbus\.listen"
    with pytest.raises(DeliveryError, match=sentence), served(f"tcp://127.0.0.1:{server.port}"):
        pass
