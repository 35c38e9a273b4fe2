"""Stands in for the sidecar of a line: `python -m tests.edge.stand_in LINE_FILE`.

It writes how it was started to `LINE_FILE.PID`, then does what the contents of LINE_FILE say.
"""

import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    line = Path(sys.argv[1])
    facts = {
        "pid": os.getpid(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "oom": Path("/proc/self/oom_score_adj").read_text().strip(),
        "argv": sys.argv,
        "env": dict(os.environ),
    }
    (line.parent / f"{os.getpid()}.json").write_text(json.dumps(facts))
    match line.read_text():
        case "record":
            record(line)
        case "record without page":
            record(line, "the address is in use")
        case "wait":
            signal.pause()
        case "ignore":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                signal.pause()
        case code:
            sys.exit(int(code))


def record(line: Path, web_fault: str | None = None) -> None:
    """Report the number of pictures that came, until the line has ended."""
    # Imported here: at the lowest priority, NumPy takes seconds on a busy machine, and only this needs it.
    from heatline.edge.errors import DeliveryError
    from heatline.edge.monitor.pictures import PictureClient, Report, picture_socket
    from heatline.edge.wire.events import EvidenceState

    kept = 0
    with PictureClient(picture_socket(line), slots=2) as client:
        while True:
            client.report(Report(EvidenceState(kept=kept, stored=kept), web_fault))
            try:
                picture = client.receive(0.05)
            except DeliveryError:
                (line.parent / "ended").write_text(str(kept))
                return
            if picture is not None:
                picture.release()
                kept += 1


if __name__ == "__main__":
    main()
