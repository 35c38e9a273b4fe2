# Shows a line's events as they come, and which were missed, with nothing but pyzmq: python live.py ADDRESS
import json
import sys

import zmq

heard = {}  # the last event, by topic and count: a journal has a count, and what a boot tells without one has another
with zmq.Context.instance().socket(zmq.SUB) as line:
    line.subscribe("")
    line.connect(sys.argv[1])
    while True:
        while not line.poll(3000):
            print("silence: nothing is inspected", flush=True)
        first, *rest = line.recv_multipart()
        topic, _, welcome = first.decode().partition(" ")
        event = json.loads(rest[0] if rest else welcome)  # a welcome has one part
        told, count = event.get("counts") or {}, event.get("journal_id") or event["boot_id"]
        last = {(event["boot_id"], each): seq for each, seq in told.get("unjournalled", {}).items()}
        last |= {(told["journal_id"], each): seq for each, seq in told.get("journalled", {}).items()}
        if "seq" in event:
            last = {(count, topic): event["previous_seq"]}
        heard = heard or last  # who joins has missed nothing
        for key, seq in last.items():
            if seq > heard.get(key, 0):
                print(f"missed events of {key[1]} after {heard.get(key, 0)} up to {seq}", flush=True)
            heard[key] = max(seq, heard.get(key, 0))
        if "seq" in event:
            heard[count, topic] = event["seq"]
            print(event["seq"], topic, event.get("times", {}).get("captured_at_ns", ""), flush=True)
