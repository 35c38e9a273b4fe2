"""What a shadow bundle found beside the line's own, and the comparison of both.

A folder has a file per pair of bundles, and as an evidence store the pictures of frames on which they differ.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from heatline.edge.bundle.store import read_manifest
from heatline.edge.calibration.statistics import share_of
from heatline.edge.config import LineConfig, load_config
from heatline.edge.errors import BundleError, ConfigError, InputError
from heatline.edge.monitor.marks import Review
from heatline.edge.monitor.memory import Row
from heatline.edge.monitor.store import folder_beside
from heatline.edge.util.files import replacing, writing
from heatline.edge.wire.events import BundleName

FOLDER = "shadow"
LISTED = 200
"""The last frames on which the verdicts differ that a file holds, and as many of the others; all are counted."""
RIGHT = {"good": "GOOD", "defective": "DEFECT"}


class Findings(msgspec.Struct, kw_only=True):
    """What two bundles said of the same frames."""

    counts: dict[str, int] = msgspec.field(default_factory=dict)
    """Number of frames by the line's verdict and the shadow's, such as `GOOD DEFECT`."""
    dropped: int = 0
    """Number of frames that the shadow left out."""
    differing: list[Row] = msgspec.field(default_factory=list)
    """Oldest first. `shadow` has the shadow's verdict, score, threshold and detail."""
    others: list[Row] = msgspec.field(default_factory=list)

    def add(self, row: Row, dropped: int) -> None:
        """Add a frame that both have judged, and the number of those that were left out before it."""
        both = row["verdict"], row["shadow"]["verdict"]
        self.counts[" ".join(both)] = self.counts.get(" ".join(both), 0) + 1
        self.dropped += dropped
        rows = self.others if both[0] == both[1] else self.differing
        rows.append(row)
        del rows[:-LISTED]

    def write(self, path: Path) -> None:
        """Write a file; it is whole at any moment."""
        with writing(path), replacing(path) as new:
            new.write_bytes(msgspec.json.encode(self))


def read_findings(path: Path) -> Findings:
    """Read a file; none is an empty one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Findings)
    except FileNotFoundError:
        return Findings()
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} cannot be read ({error}); check the disk, or delete the file") from error


def shadow_folder(line: Path, config: LineConfig) -> Path:
    """Return the folder of a line, beside what else it stores."""
    return folder_beside(line, config, "what the shadow bundle finds", "journal.folder") / FOLDER


def findings_file(folder: Path, line: BundleName, shadow: BundleName) -> Path:
    """Return the file of two bundles."""
    return folder / f"{line.digest[:12]}-{shadow.digest[:12]}.json"


def compare(file: Path, review_of: Callable[[str], Review | None]) -> dict[str, Any]:
    """Compare the bundle of a line's file with its shadow, as docs/shadow.md says.

    Raises:
        HeatlineError: the line has no shadow, or what is needed cannot be read.
    """
    config = load_config(file)
    if config.shadow is None or config.bundle is None:
        raise ConfigError(f"{file} names no shadow bundle; set one with heatline shadow {file} --set BUNDLE")
    line, shadow, former = name_of_bundle(config.bundle), name_of_bundle(config.shadow), None
    if config.former is not None:
        with contextlib.suppress(BundleError):
            former = name_of_bundle(config.former)
    found = read_findings(findings_file(shadow_folder(file, config), line, shadow))
    rows = [{**row, "review": review_of(row["id"])} for each in (found.differing, found.others) for row in each[::-1]]
    truths = [(RIGHT[row["review"].truth], row) for row in rows if row["review"] and row["review"].truth]
    truths = [(truth, row) for truth, row in truths if row["verdict"] != row["shadow"]["verdict"]]
    frames = sum(found.counts.values())
    sides = {
        name: {
            "bundle": bundle,
            "rejected": share_of(
                sum(count for both, count in found.counts.items() if both.split()[own] == "DEFECT"), frames
            ),
            "right": sum(truth == (row, row["shadow"])[own]["verdict"] for truth, row in truths),
        }
        for own, (name, bundle) in enumerate((("line", line), ("shadow", shadow)))
    }
    return {
        **sides,
        "former": former,
        "frames": frames,
        "dropped": found.dropped,
        "counts": found.counts,
        "differ": sum(count for both, count in found.counts.items() if len(set(both.split())) > 1),
        "reviewed": len(truths),
        "rows": rows,
    }


def name_of_bundle(path: Path) -> BundleName:
    """Return the name of a bundle, of which only the manifest is read."""
    manifest, digest = read_manifest(path)
    return BundleName(name=manifest.name, version=manifest.version, digest=digest)
