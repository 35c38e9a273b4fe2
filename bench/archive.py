"""Measures the inspection of archives: `python -m heatline.bench.archive --out FILE`.

The same pictures are inspected by `BundleInspector.inspect_all` in one process, as `heatline inspect` does, and by
`heatline archive inspect` with one worker: interleaved, each with one thread of the engine, and pinned to one
processor with all that it starts. So the share of the rates contains everything that Ray and the files cost.
Afterwards, archives are inspected with several numbers of workers on all processors.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from heatline.bench.commands.common import FrameSize, optional_bundle_argument
from heatline.bench.machine import machine
from heatline.bench.pictures import write_pictures
from heatline.bench.processes import sample_tree, tree
from heatline.bench.result_file import claim, keep, new_report
from heatline.bench.spread import Spread, interleaved
from heatline.edge.bundle import open_bundle, open_verified_engine
from heatline.edge.errors import BenchError
from heatline.edge.offline import BundleInspector
from heatline.edge.util.extras import require_extra

WORKERS = 1, 2, 4
PART_PICTURES = 8
"""Small parts: what a part costs counts more than with the 256 pictures of a large archive."""
MIB = 2**20


class ArchiveResult(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of an archive's inspection."""

    pictures: int
    frame_hw: tuple[int, int]
    part_pictures: int
    one_process_per_s: Spread
    """Pictures per second of `BundleInspector.inspect_all` on one processor."""
    one_worker_per_s: Spread
    """The same of an archive with one worker, Ray included, on one processor."""
    share: Spread
    """The second by the first, of each round."""
    overhead_ms: Spread
    """What a picture takes longer."""
    by_workers_per_s: dict[str, Spread]
    """Pictures per second on all processors, from the moment when all workers inspect, by number of workers."""
    start_s: dict[str, Spread]
    """From the call until all workers inspect."""
    worker_peak_mib: dict[str, Spread]
    """Largest resident memory of a worker."""
    others_mib: dict[str, Spread]
    """Proportional memory of all other processes: Ray and the one that was started."""
    driver_ms_per_part: Spread
    """Processor time of the process that was started, per part."""
    saturation_per_s: float
    """On paper: the rate at which that process needs one whole processor, with parts of 256 pictures."""


class _Run(NamedTuple):
    per_s: float
    verdicts: list[str]
    start_s: float = 0.0
    worker_peak_mib: float = 0.0
    others_mib: float = 0.0
    driver_ms_per_part: float = 0.0


class Watch:
    """Observes an inspection.

    Args:
        workers: how many are to work.
    """

    def __init__(self, workers: int) -> None:
        self._workers, self._began_s = workers, time.perf_counter()
        self._all_at: tuple[float, int] | None = None
        self._last_at = self._began_s, 0
        self._driver_s = self._driver_s_until_last = self._weighing_s = 0.0
        self.worker_peak_mib = self.others_mib = 0.0

    def say(self, sentence: str) -> None:
        """Ignore a sentence."""

    def drawing(self, overlays: int, of: int) -> None:
        """Ignore overlays: the bench asks for none."""

    def progress(self, pictures: int, of: int, unjudged: int, workers: int) -> None:
        now_s = time.perf_counter()
        if self._all_at is None and workers == self._workers:
            self._all_at = now_s, pictures
            self._driver_s = -time.process_time()
        if pictures > self._last_at[1]:
            self._last_at = now_s, pictures
            self._driver_s_until_last = self._driver_s + time.process_time() - self._weighing_s
            self._weigh()

    @property
    def start_s(self) -> float:
        return self._whole()[0] - self._began_s

    @property
    def per_s(self) -> float:
        """Pictures per second from the moment when all workers inspect to the last part."""
        start_s, before = self._whole()
        return (self._last_at[1] - before) / (self._last_at[0] - start_s)

    @property
    def driver_s_per_picture(self) -> float:
        """Processor time of this process in that time, without what observing costs."""
        return self._driver_s_until_last / (self._last_at[1] - self._whole()[1])

    def _whole(self) -> tuple[float, int]:
        if self._all_at is None or self._last_at[1] == self._all_at[1]:
            raise BenchError(f"{self._workers} workers never worked together; use more --pictures")
        return self._all_at

    def _weigh(self) -> None:
        before_s = time.process_time()
        workers = [pid for pid in tree(os.getpid()) if _title(pid).startswith(b"ray::Worker")]
        self.worker_peak_mib = max([self.worker_peak_mib, *(_peak_mib(pid) for pid in workers)])
        whole = sample_tree(os.getpid())
        apart = [sample for sample in map(sample_tree, workers) if sample is not None]
        if whole is not None:
            rest = whole.pss_bytes - sum(sample.pss_bytes for sample in apart)
            self.others_mib = max(self.others_mib, rest / MIB)
        if self._all_at is not None:
            self._weighing_s += time.process_time() - before_s


def measure_archive(bundle: Path, pictures: int, frame_hw: tuple[int, int], rounds: int) -> ArchiveResult:
    """Measure one process and one worker on one processor, then several workers on all.

    Raises:
        BenchError: a run gives other verdicts than the others.
        MissingExtraError: the extra `cluster` is not installed.
    """
    require_extra("cluster")
    everywhere = sorted(os.sched_getaffinity(0))
    here = everywhere[-1:]
    with tempfile.TemporaryDirectory(prefix="heatline-bench-") as name:
        source = Path(name) / "pictures"
        write_pictures(source, open_bundle(bundle), frame_hw, pictures)
        runs: dict[str, list[_Run]] = {"one process": [], "one worker": [], **{str(count): [] for count in WORKERS}}
        for order in interleaved(("one process", "one worker"), rounds):
            for which in order:
                if which == "one process":
                    runs[which].append(_apart(_inspect_all, bundle, source, here))
                else:
                    runs[which].append(_apart(_inspect_archive, bundle, source, here, 1))
        for counts in interleaved(WORKERS, rounds):
            for count in counts:
                runs[str(count)].append(_apart(_inspect_archive, bundle, source, everywhere, count))
    expected = runs["one process"][0].verdicts
    for which, found in runs.items():
        if len(expected) != pictures or any(run.verdicts != expected for run in found):
            raise BenchError(f"{which} gives other verdicts than the first run; report this as a bug")
    return _result(runs, pictures, frame_hw)


def _result(runs: dict[str, list[_Run]], pictures: int, frame_hw: tuple[int, int]) -> ArchiveResult:
    plain, worker = ([run.per_s for run in runs[which]] for which in ("one process", "one worker"))
    driver_ms = Spread.of([run.driver_ms_per_part for run in runs["one worker"]])

    def by_workers(figure: Callable[[_Run], float]) -> dict[str, Spread]:
        return {str(count): Spread.of([figure(run) for run in runs[str(count)]]) for count in WORKERS}

    return ArchiveResult(
        pictures=pictures,
        frame_hw=frame_hw,
        part_pictures=PART_PICTURES,
        one_process_per_s=Spread.of(plain),
        one_worker_per_s=Spread.of(worker),
        share=Spread.of([ours / theirs for ours, theirs in zip(worker, plain, strict=True)]),
        overhead_ms=Spread.of([1000 / ours - 1000 / theirs for ours, theirs in zip(worker, plain, strict=True)]),
        by_workers_per_s=by_workers(lambda run: run.per_s),
        start_s=by_workers(lambda run: run.start_s),
        worker_peak_mib=by_workers(lambda run: run.worker_peak_mib),
        others_mib=by_workers(lambda run: run.others_mib),
        driver_ms_per_part=driver_ms,
        saturation_per_s=256 / (driver_ms.median / 1000),
    )


def _apart(run: Callable[..., _Run], *arguments: Any) -> _Run:
    """Run a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def _inspect_all(bundle_path: Path, source: Path, processors: Sequence[int]) -> _Run:
    os.sched_setaffinity(0, processors)
    bundle = open_bundle(bundle_path)
    files = sorted(source.iterdir())
    with BundleInspector(bundle, open_verified_engine(bundle, threads=1)) as inspector:
        inspector.inspect(files[0])
        began_s = time.perf_counter()
        verdicts = [result.verdict for result in inspector.inspect_all(files)]
        return _Run(len(files) / (time.perf_counter() - began_s), list(verdicts))


def _inspect_archive(bundle_path: Path, source: Path, processors: Sequence[int], workers: int) -> _Run:
    os.sched_setaffinity(0, processors)
    from heatline.edge.archive.plan import write_plan
    from heatline.edge.archive.run import inspect_archive
    from heatline.edge.archive.sources import list_source
    from heatline.edge.archive.storage import Storage
    from heatline.edge.archive.verdicts import read_part

    bundle = open_bundle(bundle_path)
    with tempfile.TemporaryDirectory(prefix="heatline-bench-") as name:
        dest, listing = Storage.at(name), list_source(str(source))
        plan = write_plan(dest, str(source), listing.folder, listing.pictures, PART_PICTURES)
        watch = Watch(workers)
        inspect_archive([bundle], str(source), name, watch, workers=workers, worst=0)
        tables = (read_part(dest, bundle.digest, part)[0] for part in range(plan.parts))
        verdicts = [verdict for table in tables for verdict in table["verdict"].to_pylist()]
        driver_ms = 1000 * watch.driver_s_per_picture * PART_PICTURES
    return _Run(watch.per_s, verdicts, watch.start_s, watch.worker_peak_mib, watch.others_mib, driver_ms)


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _peak_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0.0
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@click.command(epilog="Example: python -m heatline.bench.archive --out bench/results/archive.json")
@optional_bundle_argument
@click.option("--pictures", type=click.IntRange(32, 100_000), default=200, show_default=True)
@click.option("--size", "frame_hw", type=FrameSize(), default="1224x1024", show_default=True, help="Of the pictures.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the result, as JSON.")
def main(bundle_path: Path, pictures: int, frame_hw: tuple[int, int], rounds: int, out: Path | None) -> None:
    """Measure archives with BUNDLE, or the demo's. Run nothing else on the machine."""
    claim(out)
    before = machine()
    found = measure_archive(bundle_path, pictures, frame_hw, rounds)
    click.echo(
        f"one processor: {found.one_process_per_s:.2f} pictures/s in one process, {found.one_worker_per_s:.2f} with "
        f"one worker; share {found.share:.3f}; {found.overhead_ms:.2f} ms more per picture"
    )
    for count in found.by_workers_per_s:
        click.echo(
            f"{count} workers: {found.by_workers_per_s[count]:.2f} pictures/s after {found.start_s[count]:.1f} s; "
            f"{found.worker_peak_mib[count]:.0f} MiB each, others {found.others_mib[count]:.0f} MiB"
        )
    click.echo(
        f"{found.driver_ms_per_part:.1f} ms of the driver per part: it saturates at {found.saturation_per_s:.0f} "
        "pictures/s"
    )
    if out is not None:
        keep(out, new_report("archive", before, found))


if __name__ == "__main__":
    main()
