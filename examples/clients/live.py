# Shows a line's events as they come, and which were missed, with nothing but pyzmq: python live.py ADDRESS
import json
import sys

import zmq

heard, joined = {}, False  # the last event, by topic and count: that of a journal, or of a boot's other events
with zmq.Context.instance().socket(zmq.SUB) as line:
    line.subscribe("")
    line.connect(sys.argv[1])
    while True:
        while not line.poll(3000):
            print("silence: nothing is inspected", flush=True)
        topic, header, *_ = line.recv_multipart()
        event, topic = json.loads(header), topic.decode()
        if "seq" in event:
            last = {(event["journal_id"] or event["boot_id"], topic): event["previous_seq"]}
        else:  # a status
            counts = event["counts"]
            last = {(event["boot_id"], each): seq for each, seq in counts["unjournalled"].items()}
            last |= {(counts["journal_id"], each): seq for each, seq in counts["journalled"].items()}
        for key, seq in last.items():
            known = heard.get(key, 0 if joined else seq)  # what the first status has counted was before us
            if seq > known:
                print(f"missed events of {key[1]} after {known} up to {seq}", flush=True)
            heard[key] = event.get("seq", seq)
        joined = joined or "counts" in event
        if "seq" in event:
            print(event["seq"], topic, event.get("times", {}).get("captured_at_ns", ""), flush=True)
