"""Where a frame shows what its reference shows: one shift and one small turn.

Phase correlation of the reduced picture finds the motion roughly; windows around *anchors*, places with texture in both
directions, find it exactly. One window alone may also fit another line nearby, so the motion is that which the
correlations of all windows together support best. The range is 40 px or 4 % of the longer side, and 1.5 degrees.

A frame is compared without magnification, so its pose is the best without, too. The magnification is fitted beside it:
to warn, and to say why a frame does not fit.

Where a reference has fewer than 8 anchors, windows on lines join them, which count only across their line. Along lines
every motion shows the same, and one near none is taken. Lines that repeat across within the range are refused, because
a shift by their pitch shows the same but hides a misplaced part. Lines look like their mirror image and like other
places with the same lines: such a frame is aligned, and only what differs there tells.

The least confidence is 0.75. Of 6600 pictures of other boards and parts, turned, mirrored or blank, of five public
sets, 11 had more before windows on lines joined: pairs from one board or line; those inspected by eye show the same
part. 212 of 213 of DeepPCB's pictures are aligned with their templates.
"""

import math

import cv2
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from heatline.edge.wire import events as wire

_WORK_PX, _COARSE_PX = 1024, 224  # longer sides of the reduced pictures; all px below are of the first
_RANGE_PX, _RANGE_SHARE = 40, 0.04  # px of the frame, share of its longer side
_MOST_DEGREES = 1.5  # tiles are cut unturned: at 2 degrees their corners differ beyond the tolerance of 3 px
_TURNS = np.arange(-2.5, 2.6, 0.5)  # degrees, of the rough search
_FINE_TURNS = np.arange(-0.4, 0.41, 0.1)  # degrees around the rough turn
_LARGER = np.linspace(-0.012, 0.012, 9)  # shares; at 1.2 %, the farthest windows are 8 px away
_OTHER_SIZES = 0.97, 1.03  # tried where a frame fits nowhere
_HALF, _REACH, _PAD = 24, 8, 10  # half a window, search around the rough shift, farthest move by turn and magnification
_ANCHORS, _LEAST_ANCHORS = 32, 8
_FEW_ANCHORS = 16  # windows on lines fill up to so many; enough for a second place
_LEAST_QUALITY = 0.1  # of the strongest anchor's texture: ragged edges of DeepPCB's lines have less
_LEAST_ISOTROPY = 0.1  # texture along the weaker direction: parallel lines have less
_LEAST_TEXTURE = 1e-4  # mean square gradient of (grey / 255): noise has less
_TOLERANCE, _TOLERANCE_PX = 1.5, 3  # px, and px of the frame: DeepPCB's boards differ that much from a rigid motion
_LEAST_CORRELATION, _NEAR_HIGHEST = 0.5, 0.9
_LEAST_CONFIDENCE, _LEAST_LEAD = 0.75, 0.15
_MOST_DISTANCE = 0.35  # from the centre, share of the diagonal: of three quarters of a frame, which must agree
_PRIOR, _COARSE_PRIOR = 0.1, 1.0  # what weighs against a farther motion where the windows do not decide


class Pose(wire.Pose, frozen=True):
    """A rigid motion, as events carry it."""

    def matrix(self, frame_hw: tuple[int, int]) -> NDArray[np.float64]:
        """Return the motion [2, 3] that takes a px (x, y) of the reference to the frame's, as OpenCV writes it."""
        height, width = frame_hw
        return _motion(self.degrees, np.array([self.x_px, self.y_px]), np.array([width, height]) / 2 - 0.5)

    def corners(self, origins_yx: NDArray[np.integer], tile_px: int, frame_hw: tuple[int, int]) -> NDArray[np.int32]:
        """Return what of the reference the frame's tiles show: top left corners (y, x), int32 [n, 2], of tiles with
        these corners in the frame, int [n, 2]. One may lie outside the reference.
        """
        to_centre = (tile_px - np.array(frame_hw)) / 2
        seen = (origins_yx + to_centre - (self.y_px, self.x_px))[:, ::-1] @ _turn(self.degrees)
        return np.rint(seen[:, ::-1] - to_centre).astype(np.int32)


class Aligner:
    """Finds the pose of frames that show the same as the reference.

    Args:
        grey: the reference, uint8 [H, W].

    One `find` takes 11 ms for 2448x2048 px on one core, 15 ms with a repeated pattern, 24 ms for a frame that is not
    found, and 21 ms where only the second try finds it: 3 of 506 frames of DeepPCB.
    """

    def __init__(self, grey: NDArray[np.uint8]) -> None:
        height, width = grey.shape
        self._factor = math.ceil(max(height, width) / _WORK_PX)
        self._centre = np.array([width, height]) / self._factor / 2 - 0.5
        work = _reduced(grey, self._factor)
        self._coarse_factor = max(1, round(max(work.shape) / _COARSE_PX))
        coarse = _reduced(work, self._coarse_factor)
        self._dft_hw = [cv2.getOptimalDFTSize(n) for n in coarse.shape]
        self._window = np.sqrt(np.outer(*(np.hanning(n + 2)[1:-1] for n in coarse.shape))).astype(np.float32)
        self._spectra = np.stack([self._spectrum(self._turned(coarse, turn)) for turn in _TURNS]).conj()
        self._tolerance = max(_TOLERANCE, _TOLERANCE_PX / self._factor)
        larger = 100 * self._tolerance * self._factor / (_MOST_DISTANCE * math.hypot(height, width))
        self.farthest = max(_RANGE_PX, _RANGE_SHARE * max(height, width)), _MOST_DEGREES, larger
        """Of an aligned frame: the largest shift along each axis, px, the largest turn, degrees, and about by how much
        it may show all larger or smaller, %."""
        range_px = self.farthest[0] / self._factor
        reach = math.ceil(range_px / self._coarse_factor) + 1
        self._rows, self._columns = (np.arange(-r, r + 1) for r in (min(reach, (n - 1) // 2) for n in coarse.shape))
        far = (self._rows[:, None] / reach) ** 2 + (self._columns / reach) ** 2 + (_TURNS[:, None, None] / 8) ** 2
        self._prior = np.asarray(1 / (1 + _COARSE_PRIOR * far), np.float32)
        self._anchors, self._across = _textured_places(work)
        self._windows = [_cut(work, place, _HALF) for place in self._anchors]
        self._alias = _alias(work, self._anchors, self._windows, round(2 * range_px))

    def find(self, grey: NDArray[np.uint8]) -> Pose:
        """Return the pose of a frame of the reference's size, uint8 [H, W]; `reject_reason` says whether it is sure."""
        work = _reduced(grey, self._factor)
        spectrum = self._spectrum(_reduced(work, self._coarse_factor))
        found = np.fft.irfft2(self._spectra * spectrum, s=self._dft_hw)[:, self._rows[:, None], self._columns]
        found *= self._prior
        poses, starts = list[Pose](), list[tuple[NDArray[np.float64], float]]()
        for _ in range(2):
            turn, row, column = np.unravel_index(np.argmax(found), found.shape)
            shift = np.array([self._columns[column], self._rows[row]]) * self._coarse_factor
            starts.append((shift, float(_TURNS[turn])))
            pose = self._refined(work, *starts[-1], _FEW_ANCHORS if poses else _ANCHORS)
            if poses and pose.confidence >= _LEAST_CONFIDENCE:  # few windows may agree where all do not
                pose = self._refined(work, np.array([pose.x_px, pose.y_px]) / self._factor, pose.degrees)
            poses.append(pose)
            if poses[-1].confidence >= _LEAST_CONFIDENCE:
                break
            found[:, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = -np.inf
        if all(pose.confidence < _LEAST_CONFIDENCE and pose.magnification == 1 for pose in poses):
            poses += [self._refined(work, *starts[0], _FEW_ANCHORS, size) for size in _OTHER_SIZES]
        best = max(
            poses, key=lambda pose: (pose.confidence >= _LEAST_CONFIDENCE, pose.magnification != 1, pose.confidence)
        )
        at = np.array([best.x_px, best.y_px]) / self._factor
        for sign in (-1, 1) if self._alias and best.confidence >= _LEAST_CONFIDENCE else ():
            other = self._refined(work, at + sign * np.array(self._alias), best.degrees, _FEW_ANCHORS)
            if other.confidence > best.confidence - _LEAST_LEAD:
                return replace(best, confidence=0.0)
        return best

    def reject_reason(self, pose: Pose) -> str | None:
        """Return why the frame of this pose is not aligned with the reference, in one sentence; None: it is aligned."""
        sure, most_px = pose.confidence >= _LEAST_CONFIDENCE, self.farthest[0]
        near = max(abs(pose.x_px), abs(pose.y_px)) <= most_px + _TOLERANCE_PX
        if sure and near and abs(pose.degrees) <= _MOST_DEGREES:
            return None
        if sure and not near:
            reason = (
                f"the frame is shifted by {pose.x_px:.0f} px right and {pose.y_px:.0f} px down, at most {most_px:.0f} "
                "fit: check its mount and trigger"
            )
        elif sure:
            reason = f"the frame is turned by {pose.degrees:.2f} degrees, at most {_MOST_DEGREES} fit: check its mount"
        elif len(self._anchors) < _LEAST_CONFIDENCE * _LEAST_ANCHORS:
            reason = "the reference shows too little texture: choose another reference"
        elif self._alias and not pose.confidence:
            reason = "the pattern repeats, so that the frame may lie in two ways: choose a reference with a unique part"
        elif abs(larger := 100 * (pose.magnification - 1)) > self.farthest[2] / 2:
            reason = (
                f"the part is shown {abs(larger):.1f} % {'larger' if larger > 0 else 'smaller'} than in the reference: "
                "check the camera's distance and lens, and calibrate its scale again"
            )
        else:
            reason = "the frame does not show what the reference shows: check the product, its place and its size"
        least = f"expected at least {_LEAST_CONFIDENCE}"
        return f"{reason} (confidence {pose.confidence:.2f}, {least}; error {pose.error_px:.1f} px)"

    def _spectrum(self, coarse: NDArray[np.uint8]) -> NDArray[np.complex64]:
        """Return phases; frequencies without content, which are noise, count less."""
        spectrum = np.fft.rfft2((coarse - np.float32(coarse.mean())) * self._window, s=self._dft_hw)
        size = np.abs(spectrum)
        return np.asarray(spectrum / (size + 0.1 * size.mean() + 1e-6), np.complex64)

    def _turned(self, coarse: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
        motion = _motion(degrees, np.zeros(2), (self._centre + 0.5) / self._coarse_factor - 0.5)
        return np.asarray(cv2.warpAffine(coarse, motion, coarse.shape[::-1], borderMode=cv2.BORDER_REPLICATE), np.uint8)

    def _refined(
        self,
        work: NDArray[np.uint8],
        shift: NDArray[np.float64],
        degrees: float,
        most: int = _ANCHORS,
        size: float = 1.0,
    ) -> Pose:
        """Return the pose near a rough motion and size, without confidence if it is another; the frame is moved back
        first, so that windows do not turn.
        """
        motion = _motion(degrees, shift, self._centre, size)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved = np.asarray(cv2.warpAffine(work, motion, work.shape[::-1], flags=flags), np.uint8)
        in_frame = self._anchors @ motion[:, :2].T + motion[:, 2]
        shown = ((in_frame >= _HALF) & (in_frame < np.array(work.shape[::-1]) - _HALF)).all(axis=1)
        visible = shown & (np.arange(len(in_frame)) < most)
        if not visible.any():
            return Pose(0.0, 0.0, 0.0, 0.0, 0.0)
        responses = np.stack(
            [
                cv2.matchTemplate(_cut(moved, self._anchors[i], _HALF + _REACH), self._windows[i], cv2.TM_CCOEFF_NORMED)
                for i in np.flatnonzero(visible)
            ],
            dtype=np.float32,
        )
        (dx, dy, turn), distances, larger = _fit(
            self._anchors[visible] - self._centre, self._across[visible], responses, self._tolerance
        )
        agree = distances <= self._tolerance
        rest = size * _turn(degrees) @ (dx, dy)
        return Pose(
            x_px=float(shift[0] + rest[0]) * self._factor,
            y_px=float(shift[1] + rest[1]) * self._factor,
            degrees=degrees + math.degrees(turn),
            confidence=float(agree.sum() / max(len(responses), _LEAST_ANCHORS)) if size == 1 else 0.0,
            error_px=float(np.median(distances[agree])) * self._factor if agree.any() else 0.0,
            magnification=size * (1 + larger) if larger else 1.0,
        )


def _turn(degrees: float) -> NDArray[np.float64]:
    """Return the matrix that turns columns (x, y) clockwise as seen."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


def _motion(
    degrees: float, shift: NDArray[np.float64], centre: NDArray[np.float64], size: float = 1.0
) -> NDArray[np.float64]:
    """Return the matrix [2, 3] of a turn and a magnification around the centre, and a shift."""
    turn = size * _turn(degrees)
    return np.column_stack([turn, centre + shift - turn @ centre])


def _reduced(grey: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    height, width = (n // factor for n in grey.shape)
    whole = grey[: height * factor, : width * factor]
    if factor == 1:
        return grey
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _cut(grey: NDArray[np.uint8], place: NDArray[np.int64], half: int) -> NDArray[np.uint8]:
    x, y = place
    return grey[y - half : y + half + 1, x - half : x + half + 1]


def _textured_places(work: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the centres (x, y) of anchors, int [n, 2], and the directions in which they count, [n, 2, 2].

    Anchors have texture in both directions and lie spread as far as there is any; too few are filled up with places
    on lines, which count only across.
    """
    margin, block = _HALF + _REACH, 2 * _HALF - 1
    inside = np.zeros(work.shape, np.uint8)
    inside[margin : -margin or None, margin : -margin or None] = 255
    if min(work.shape) <= 2 * margin:
        return np.empty((0, 2), np.int64), np.empty((0, 2, 2))
    eigen = cv2.cornerEigenValsAndVecs(work, block, 3)
    on_line = (inside > 0) & (eigen[..., 0] >= max(_LEAST_TEXTURE, 0.3 * float(eigen[..., 0].max())))
    inside[eigen[..., 1] < _LEAST_ISOTROPY * eigen[..., 0]] = 0
    quality = max(_LEAST_QUALITY, _LEAST_TEXTURE / max(float(eigen[..., 1].max()), 1e-9))
    places = np.empty((0, 2), np.int64)
    spacing = math.sqrt(work.size / _ANCHORS)
    while len(places) < _ANCHORS and spacing > _HALF / 2 and quality < 1:
        found = cv2.goodFeaturesToTrack(work, _ANCHORS, quality, spacing, mask=inside, blockSize=block)
        places = found.reshape(-1, 2).astype(np.int64) if found is not None else places
        spacing /= 1.4
    anchors, lines = len(places), np.argwhere(on_line[::4, ::4])[:, ::-1] * 4
    while anchors < _LEAST_ANCHORS and len(places) < _FEW_ANCHORS and len(lines):
        farthest = np.argmax(np.linalg.norm(lines[:, None] - places, axis=2).min(axis=1, initial=1e9))
        places = np.vstack([places, lines[farthest]])
        lines = lines[np.linalg.norm(lines - places[-1], axis=1) > _HALF / 2]
    normals = eigen[places[:, 1], places[:, 0], 2:4]
    across = np.where(
        np.arange(len(places))[:, None, None] < anchors, np.eye(2), normals[:, :, None] * normals[:, None]
    )
    return places, across


def _vertex(*heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the vertices of parabolas are from their middle places: through values before, there and after."""
    before, highest, after = heights
    return np.clip((after - before) / 2 / np.maximum(2 * highest - before - after, 1e-9), -0.5, 0.5)


def _fit(
    at: NDArray[np.float64], across: NDArray[np.float64], responses: NDArray[np.float32], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return shift x, y and turn in radians with which most windows agree, each window's distance, inf: none, and by
    which share the frame shows all larger, 0: not known.
    """
    count, side, _ = responses.shape
    aside = np.column_stack([-at[:, 1], at[:, 0]])
    design = np.concatenate([np.broadcast_to(np.eye(2), (count, 2, 2)), aside[:, :, None], at[:, :, None]], axis=2)
    farthest = np.linalg.norm(at, axis=1).max()
    prior = _PRIOR * np.diag([1, 1, farthest, farthest])
    padded = np.pad(np.maximum(responses, 0), ((0, 0), (_PAD, _PAD), (_PAD, _PAD)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
    every, line, reach = np.arange(count), np.arange(side), round(tolerance)
    far, exact = (line / _REACH - 1) ** 2, responses.astype(np.float64)
    least = np.maximum(_LEAST_CORRELATION, _NEAR_HIGHEST * responses.max(axis=(1, 2)))

    def fit(starts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fit the motion near one of these turns, or turns and magnifications, that most windows support."""
        size = 2 + starts.shape[1]
        part, against = design[:, :, :size], prior[:size, :size]
        steps = np.rint(part[:, :, 2:] @ starts.T).clip(-_PAD, _PAD).astype(int) + _PAD
        sums = [views[every, y, x].sum(axis=0) for x, y in steps.transpose(2, 1, 0)]
        votes = np.stack(sums) - _PRIOR * (far[:, None] + far + (starts[:, -1:, None] / starts[-1, -1]) ** 2)
        best, row, column = np.unravel_index(np.argmax(votes), votes.shape)
        motion, distances = np.array([column - _REACH, row - _REACH, *starts[best]]), np.zeros(count)
        for _ in range(2):
            places = np.rint(part @ motion).T[:, :, None] + _REACH
            first, last = (np.clip(places + n, 0, side - 1) for n in (-reach, reach))
            columns, rows = (first <= line) & (line <= last)
            near = np.where(rows[:, :, None] & columns[:, None], responses, -1).reshape(count, -1)
            v, u = np.divmod(near.argmax(axis=1), side)
            y, x = np.clip((v, u), 1, side - 2)
            right = _vertex(*(exact[every, v, x + n] for n in (-1, 0, 1)))
            down = _vertex(*(exact[every, y + n, u] for n in (-1, 0, 1)))
            moves = np.column_stack([u + right, v + down]) - _REACH
            known = (near.max(axis=1) >= least) & (x == u) & (y == v)  # on the border: outside it fits better
            motion = np.linalg.lstsq(
                np.vstack([*(across @ part)[known], against]),
                np.append((across @ moves[:, :, None])[known], np.zeros(size)),
            )[0]
            off = np.linalg.norm(across @ (part @ motion - moves)[:, :, None], axis=(1, 2))
            distances = np.where(known, off, np.inf)
        return motion, distances

    motion, distances = fit(np.radians(_FINE_TURNS)[:, None])
    magnified, apart = fit(np.column_stack([np.full(len(_LARGER), motion[2]), _LARGER]))
    is_sure = (apart <= tolerance).sum() >= _LEAST_CONFIDENCE * max(count, _LEAST_ANCHORS)
    return motion, distances, float(magnified[3]) if is_sure else 0.0


def _alias(
    work: NDArray[np.uint8], places: NDArray[np.int64], windows: list[NDArray[np.uint8]], reach: int
) -> tuple[int, int] | None:
    """Return the other shift (x, y) at which the reference shows most windows again, if at least half; else None."""
    side = 2 * reach + 1
    again, shown = np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
    for (x, y), window in zip(places, windows, strict=True):
        top, left = max(y - reach - _HALF, 0), max(x - reach - _HALF, 0)
        response = cv2.matchTemplate(
            work[top : y + reach + _HALF + 1, left : x + reach + _HALF + 1], window, cv2.TM_CCOEFF_NORMED
        )
        _, parts = cv2.connectedComponents((response >= _LEAST_CORRELATION).astype(np.uint8))
        own = parts[y - top - _HALF, x - left - _HALF]  # along a line the window fits everywhere
        same = ((response >= _NEAR_HIGHEST) & (parts != own)).astype(np.uint8)
        row, column = top + _HALF - y + reach, left + _HALF - x + reach
        part = np.s_[row : row + response.shape[0], column : column + response.shape[1]]
        again[part] += cv2.dilate(same, np.ones((3, 3)))
        shown[part] += 1
    again[reach - _REACH : reach + _REACH + 1, reach - _REACH : reach + _REACH + 1] = 0
    share = again / np.maximum(shown, _LEAST_ANCHORS)
    row, column = np.unravel_index(np.argmax(share), share.shape)
    return (int(column) - reach, int(row) - reach) if share[row, column] >= 0.5 else None
