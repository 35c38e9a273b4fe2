# Prints a line's events and the events that were missed, with pyzmq alone: python live.py ADDRESS
import json
import sys

import zmq

since, last_seqs, joined = {}, {}, False  # by count, of a journal or a boot: the number before us; each topic's last
with zmq.Context.instance().socket(zmq.SUB) as line:
    line.subscribe("")
    line.connect(sys.argv[1])
    while True:
        while not line.poll(3000):
            print("silence: nothing is inspected", flush=True)
        topic, header, *_ = line.recv_multipart()
        event, topic = json.loads(header), topic.decode()
        if "seq" in event:
            counted = {event["journal_id"] or event["boot_id"]: {topic: event["previous_seq"]}}
        else:  # a status
            counts = event["counts"]
            counted = {event["boot_id"]: counts["unjournalled"], counts["journal_id"]: counts["journalled"]}
        for count, topics in counted.items():
            since.setdefault(count, 0 if joined else max([event.get("seq", 1) - 1, *topics.values()]))
            for each, seq in topics.items():
                known = last_seqs.get((count, each), since[count])
                if seq > known:
                    print(f"missed events of {each} after {known} up to {seq}", flush=True)
                last_seqs[count, each] = event.get("seq", seq)
        joined = joined or "counts" in event
        if "seq" in event:
            print(event["seq"], topic, event.get("times", {}).get("captured_at_ns", ""), flush=True)
