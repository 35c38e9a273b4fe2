"""Gets every event of a line with nothing but pyzmq: python durable.py ADDRESS NAME >> events.jsonl"""

import json
import sys
import uuid

import zmq

address, name = sys.argv[1:]
identity = {"schema_version": 2, "name": name}
follow = {"type": "follow", "client": uuid.uuid4().hex, **identity}
while True:  # on a new connection, as the line was silent for three heartbeats
    with zmq.Context.instance().socket(zmq.DEALER) as line:
        line.linger = 0
        line.connect(address)
        line.send_json(follow)
        while line.poll(3000):
            header, *events = line.recv_multipart()
            reply = json.loads(header)
            if reply.get("reason") in ("not_following", "other_journal", "unavailable", "busy"):
                continue  # silence comes after it, and it is followed again
            if reply["type"] == "refused" or reply["schema_version"] != 2:
                sys.exit(header.decode())
            if reply.get("lost_through") or reply.get("former"):
                print("LOST", header.decode(), file=sys.stderr, flush=True)
            for event in events[::2]:  # after each comes its heatmap, or nothing
                print(event.decode(), flush=True)  # after an outage, some come again: with the same journal_id and seq
            done = reply["acked_seq"] if reply["type"] == "following" else reply["through_seq"]
            line.send_json({"type": "ack", "journal_id": reply["journal_id"], "seq": done, **identity})
