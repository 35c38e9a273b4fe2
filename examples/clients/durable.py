"""Prints every event of a line, with pyzmq alone: python durable.py ADDRESS NAME >> events.jsonl"""

import json
import sys
import uuid

import zmq

address, name = sys.argv[1:]
identity = {"schema_version": 2, "name": name}
follow = {"type": "follow", "client": uuid.uuid4().hex, **identity}
while True:  # a new connection after three heartbeats of silence
    with zmq.Context.instance().socket(zmq.DEALER) as line:
        line.linger = 0
        line.connect(address)
        line.send_json(follow)
        while line.poll(3000):
            header, *events = line.recv_multipart()
            reply = json.loads(header)
            if reply.get("reason") in ("not_following", "other_journal", "unavailable", "busy"):
                continue  # silence follows, then a new connection
            if reply["type"] == "refused" or reply["schema_version"] != 2:
                sys.exit(header.decode())
            if reply.get("lost_through") or reply.get("former"):
                print("LOST", header.decode(), file=sys.stderr, flush=True)
            for event in events[::2]:  # each is followed by its heatmap or an empty frame
                print(event.decode(), flush=True)  # may repeat after an outage, with the same journal_id and seq
            done = reply["acked_seq"] if reply["type"] == "following" else reply["through_seq"]
            line.send_json({"type": "ack", "journal_id": reply["journal_id"], "seq": done, **identity})
