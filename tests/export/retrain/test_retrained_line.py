"""A line with a systematic false alarm: three marks, retrain, reload; the false alarm is gone, and all finds stay."""

import shlex
from pathlib import Path

import pytest

from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import ChangeEvent, VerdictEvent
from tests.command import heatline
from tests.edge.lines import RunningLine, running, write_line, write_pictures
from tests.edge.secured import until
from tests.export.retrain.conftest import Trained
from tests.export.retrain.marked import blob_frame, good_frame, label_frame

LABELS, BLOBS, GOODS = 3, 3, 2
FRAMES = LABELS + BLOBS + GOODS


def round_of(line: RunningLine) -> dict[str, str]:
    """Return the verdict of each picture in the next round."""
    verdicts: dict[str, str] = {}
    while len(verdicts) < FRAMES:
        event = line.until(lambda event: isinstance(event, VerdictEvent) and event.source is not None)
        verdicts[event.source] = event.verdict
    return verdicts


@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_three_marks_remove_a_systematic_false_alarm_of_a_line(
    trained: Trained, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(
        tmp_path / "pictures",
        {
            **{f"label{number}.png": label_frame(number) for number in range(LABELS)},
            **{f"blob{number}.png": blob_frame(number) for number in range(BLOBS)},
            **{f"good{number}.png": good_frame(number) for number in range(GOODS)},
        },
    )
    camera = f'path = "{tmp_path / "pictures"}"\nloop = true\nrate_fps = 5.0'
    (tmp_path / "journal").mkdir()
    tables = f'[evidence]\nfolder = "{tmp_path / "evidence"}"\n[journal]\nfolder = "{tmp_path / "journal"}"\n'
    file = write_line(tmp_path, trained.bundle, address, {"top": camera}, tables)
    store = EvidenceStore(tmp_path / "evidence")
    expected = {path.name: "GOOD" for path in (tmp_path / "pictures").iterdir() if not path.name.startswith("blob")}
    expected |= {f"blob{number}.png": "DEFECT" for number in range(BLOBS)}
    with running(file, address) as line:
        before = round_of(line)
        assert before == expected | {f"label{number}.png": "DEFECT" for number in range(LABELS)}

        def stored() -> dict[str, str]:
            return {str(entry.event.source): entry.picture for entry in store.entries(verdicts=["DEFECT"])}

        until(lambda: len(stored()) == LABELS + BLOBS)
        marks = {f"label{number}.png": "false-alarm" for number in range(LABELS)}
        marks |= {f"blob{number}.png": "right" for number in range(BLOBS)}
        pictures = stored()
        for source, kind in marks.items():
            marked = heatline("evidence", "mark", file, pictures[source], kind, "--by", "Ada")
            assert marked.returncode == 0, marked.stderr
        until(lambda: {entry.picture for entry in store.entries(is_reviewed=True)} >= set(pictures.values()))

        retrained = heatline("retrain", file)
        assert retrained.returncode == 0, retrained.stdout + retrained.stderr
        offered = [line.strip() for line in retrained.stdout.splitlines() if line.strip().startswith("heatline reload")]
        in_force, back = (shlex.split(command)[1:] for command in offered)
        assert heatline(*in_force).returncode == 0
        change = line.until(lambda event: isinstance(event, ChangeEvent))
        assert (change.applied, change.bundle.version) == (True, "1+retrain1")
        assert round_of(line) == expected

        assert heatline(*back).returncode == 0
        line.until(lambda event: isinstance(event, ChangeEvent) and event.bundle.version == "1")
        assert round_of(line) == before
        line.end()
