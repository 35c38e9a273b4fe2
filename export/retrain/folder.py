"""The folder of a retraining: the frames that it is trained on, its run, and its bundle."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from heatline.edge.errors import InputError, TrainingError
from heatline.edge.util.files import writing
from heatline.export.retrain.plan import Plan
from heatline.train.files import write_atomically
from heatline.train.readers.labelled import INDEX, ReviewedFrame, write_index

PLAN = "plan.sha256"


class RetrainingFolder:
    """The files below a folder.

    Args:
        bundle_name: name of the new bundle's folder.
    """

    def __init__(self, folder: Path, bundle_name: str) -> None:
        self.folder = folder
        self.plan = folder / PLAN
        self.reviewed = folder / "reviewed"
        self.run = folder / "run"
        self.bundle = folder / bundle_name
        self.result = folder / "result.json"

    def begin(self, plan: Plan, digest: str) -> None:
        """Copy the frames to train on, unless an interrupted retraining by the same plan has copied them.

        Args:
            digest: of the plan.
        Raises:
            InputError: the folder holds something else.
            TrainingError: it cannot be written.
        """
        if self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir()) and not self._has(digest)):
            raise InputError(
                f"{self.folder} holds files that no retraining with the same marks wrote; name a new folder with --out"
            )
        with writing(self.folder, TrainingError, or_else=", or name another folder with --out"):
            self.folder.mkdir(parents=True, exist_ok=True)
            # First, so that after Ctrl-C the same command recognises the folder.
            write_atomically(self.plan, lambda file: file.write_text(f"{digest}\n"))
            if not (self.reviewed / INDEX).exists():
                self._copy(plan.trained)

    def _has(self, digest: str) -> bool:
        try:
            return self.plan.read_text().strip() == digest
        except (OSError, UnicodeDecodeError):
            return False

    def _copy(self, frames: Sequence[tuple[Path, ReviewedFrame]]) -> None:
        shutil.rmtree(self.reviewed, ignore_errors=True)
        for path, row in frames:
            target = self.reviewed / row.file
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                source = path.open("rb")
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror}); give the same command again") from error
            with source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        self.reviewed.mkdir(exist_ok=True)
        write_index(self.reviewed, [row for _, row in frames])  # last: a folder without it is incomplete
