"""One HTML page with everything in it: per frame the picture, its heatmap with the regions found, and the true
defects.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle import Manifest
from edge.heatmap_picture import outline_regions, tint
from edge.images import read_rgb
from edge.wire.events import StatusEvent, VerdictEvent
from train.evaluation.scoring import FrameScore

SHOWN_WIDTH_PX = 640
TRUE_RGB = (255, 220, 0)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 2000px; padding: 0 1.5rem; color: #1b1f24; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 0 0 .3rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; } td, th { padding: .25rem .9rem .25rem 0; text-align: left; }
.GOOD, .kept { color: #1a7f37; font-weight: 600; } .DEFECT, .broken { color: #cf222e; font-weight: 600; }
.NO_VERDICT { color: #9a6700; font-weight: 600; }
section { border-top: 1px solid #d0d7de; padding: 1rem 0; }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: .8rem; }
figure { margin: 0; } img { width: 100%; display: block; } figcaption { color: #59636e; font-size: .9rem; }
"""


@dataclass(frozen=True)
class FrameOnPage:
    """One frame: what was said of it, and what is true."""

    event: VerdictEvent
    image: Path
    heatmap: Path
    """The heatmap PNG that came with the event."""
    mask: NDArray[np.bool_]
    score: FrameScore


def write_page(
    path: Path,
    frames: Sequence[FrameOnPage],
    final: StatusEvent,
    checks: Sequence[tuple[str, str, bool]],
    manifest: Manifest,
) -> Path:
    """Write the page and return where it is. It needs no other file."""
    promises = "".join(
        f"<tr><td class={'kept' if kept else 'broken'}>{'kept' if kept else 'broken'}</td>"
        f"<td>{html.escape(promise)}</td><td>{html.escape(came)}</td></tr>"
        for promise, came, kept in checks
    )
    accounts = "".join(
        f"<tr><td>{html.escape(camera)}</td><td>{account.captured}</td><td>{account.inspected}</td>"
        f"<td>{_reasons(account.dropped)}</td><td>{_reasons(account.failed)}</td><td>{account.in_flight}</td></tr>"
        for camera, account in final.ledger.items()
    )
    threshold = manifest.calibration
    path.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>heatline demo</title><style>{STYLE}</style>"
        f"<h1>heatline demo: {len(frames)} drawn boards</h1>"
        f"<p>Bundle {html.escape(manifest.name)} {html.escape(manifest.version)} ({html.escape(manifest.model.name)}), "
        f"trained by masks of drawn defects. A board is DEFECT if a tile reaches "
        f"{threshold.score_threshold:.2f} "
        f"logits; regions are where the heatmap reaches {threshold.evidence_threshold:.2f}. "
        f"All heatmaps share one colour scale.</p>"
        f"<table>{promises}</table>"
        f"<h2>Frame ledger</h2><table><tr><th>camera<th>captured<th>inspected<th>dropped<th>failed<th>in flight</tr>"
        f"{accounts}</table>" + "".join(_section(frame) for frame in frames),
        encoding="utf-8",
    )
    return path


def _section(frame: FrameOnPage) -> str:
    event, score = frame.event, frame.score
    rgb = read_rgb(frame.image)
    found = rgb
    if event.heatmap is not None:
        grey = cv2.imread(str(frame.heatmap), cv2.IMREAD_GRAYSCALE)
        found = tint(rgb, np.asarray(grey, np.uint8), event.heatmap.cell_px)
    found = outline_regions(found, event.regions)
    said = f"score {event.frame_score:.2f}" if event.frame_score is not None else html.escape(event.detail or "")
    truth = f"{score.hit} of {score.defects} defects hit" if score.defects else "flawless"
    return (
        f"<section><h2>{html.escape(str(event.source))} <span class={event.verdict}>{event.verdict}</span></h2>"
        f"<p>{said}, {len(event.regions)} region(s); {truth}, {score.false_regions} false region(s); "
        f"{event.latency_ms:.0f} ms</p><div class=pictures>"
        + _figure(rgb, "picture")
        + _figure(found, "heatmap and regions found")
        + _figure(_with_truth(rgb, frame.mask), "true defects")
        + "</div></section>"
    )


def _with_truth(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture with a ring around each true defect, which itself stays uncovered."""
    near = cv2.dilate(mask.astype(np.uint8), np.ones((25, 25), np.uint8))
    contours, _ = cv2.findContours(near, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(cv2.drawContours(rgb.copy(), contours, -1, TRUE_RGB, 5), np.uint8)


def _figure(rgb: NDArray[np.uint8], caption: str) -> str:
    height = round(rgb.shape[0] * SHOWN_WIDTH_PX / rgb.shape[1])
    small = cv2.resize(rgb, (SHOWN_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    data = base64.b64encode(jpeg.tobytes()).decode()
    return (
        f"<figure><img src='data:image/jpeg;base64,{data}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"
    )


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{html.escape(reason)} {count}" for reason, count in counts.items()) or "0"
