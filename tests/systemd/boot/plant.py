"""A plant's programs, in heatline's Python: `listen ADDRESS` writes the header of every event of a line to standard
output, one per line, over all its restarts; `ask MODBUS_PORT OPCUA_PORT` prints, as JSON, what the bridges say.
"""

import asyncio
import json
import socket
import struct
import sys
import time

from heatline.edge.bridge.modbus.registers import LINE, MAILBOX, Block

WITHIN_SECONDS = 120.0


def block(plc: socket.socket, of: Block) -> dict[str, int]:
    """Return the first register of each field."""
    count = of.end - of.address
    plc.sendall(struct.pack(">HHHBBHH", 1, 0, 6, 1, 4, of.address, count))
    words = struct.unpack(f">{count}H", plc.recv(9 + 2 * count, socket.MSG_WAITALL)[9:])
    return {name: words[at - of.address] for name, at in of.addresses.items()}


def over_modbus(port: int) -> dict[str, int]:
    """Read until the line is ready and a result is shown."""
    with socket.create_connection(("127.0.0.1", port), WITHIN_SECONDS) as plc:
        give_up_s = time.monotonic() + WITHIN_SECONDS
        while time.monotonic() < give_up_s:
            line, result = block(plc, LINE), block(plc, MAILBOX)
            if line["heartbeat"] and result["kind"]:  # a line that was not heard yet is NOT_READY, with heartbeat 0
                return {"heartbeat": line["heartbeat"], "state": line["state"], "verdict": result["verdict"]}
    raise TimeoutError(f"no result over Modbus within {WITHIN_SECONDS:.0f} s")


async def over_opcua(port: int) -> dict[str, int | str]:
    """Read until the line is heard and a result has come."""
    from asyncua import Client

    async with Client(f"opc.tcp://127.0.0.1:{port}", timeout=WITHIN_SECONDS) as client:
        handshake, evaluation = (
            client.get_node(f"ns=2;s=VisionSystem.{path}")
            for path in ("Line.Handshake", "ResultManagement.LatestResult.ResultEvaluation")
        )
        give_up_s = time.monotonic() + WITHIN_SECONDS
        while time.monotonic() < give_up_s:
            values = [(await node.read_data_value(raise_on_bad_status=False)).Value for node in (handshake, evaluation)]
            found = [None if value is None else value.Value for value in values]
            if found[0] not in (None, "NOT_READY") and found[1]:
                return {"handshake": found[0], "evaluation": found[1]}
    raise TimeoutError(f"no result over OPC UA within {WITHIN_SECONDS:.0f} s")


def listen(address: str) -> None:
    """Write the bytes that came over the wire, which the tests check."""
    import zmq

    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.RECONNECT_IVL, 20)
        subscriber.setsockopt(zmq.RCVHWM, 0)
        subscriber.setsockopt_string(zmq.SUBSCRIBE, "")
        subscriber.connect(address)
        while True:
            _, header, *_ = subscriber.recv_multipart()
            sys.stdout.buffer.write(header + b"\n")
            sys.stdout.buffer.flush()


if sys.argv[1] == "listen":
    listen(sys.argv[2])
else:
    modbus_port, opcua_port = map(int, sys.argv[2:])
    print(json.dumps({"modbus": over_modbus(modbus_port), "opcua": asyncio.run(over_opcua(opcua_port))}))
