"""`heatline bench startup`: where a start's time goes, with files in memory or on the disk, with and without the cache
of compiled graphs.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec

from bench.engine_process import require_engine_in
from bench.spread import Spread
from bench.startup.start import LineFile, Start, import_times_ms
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.inference import Precision

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
Condition = Literal["cold", "cold, cached", "warm", "cached"]
"""Cold: files on the disk, as after power-on; else in memory. Cached: with the graph as it was compiled before."""
IN_WORDS: Mapping[Condition, str] = {
    "cold": "files on the disk, no model cache",
    "cold, cached": "files on the disk, with the model cache",
    "warm": "files in memory, no model cache",
    "cached": "files in memory, with the model cache",
}
CacheUse = Literal["taken from", "left alone", "filled anew"]
COLD: Sequence[Condition] = ("cold", "cold, cached")
CACHED: Sequence[Condition] = ("cold, cached", "cached")
"""A line PC at power-on, and a service that starts again."""


class Starts(msgspec.Struct, frozen=True, kw_only=True):
    """All starts under one condition."""

    ready_s: Spread
    first_verdict_s: Spread
    cpu_ready_s: Spread
    phases_s: dict[str, Spread]
    """In their order. The medians add up to about that of `first_verdict_s`."""
    ready_to_warm: Spread
    """Over the one of the same turn that was warm."""
    starts: list[Start]


class StartUp(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    bundle: str
    model: str
    precision: Precision
    frame_hw: tuple[int, int]
    bytes_of_bundle: int
    repetitions: int
    conditions: dict[Condition, Starts]
    why_not_cold: str | None
    """Why files could not be had from the disk; None: they were."""
    imports_ms: dict[str, float]
    """Up to READY in one start that was warm, by library, each without what it imports of others."""


def measure_startup(
    bundle: Bundle,
    precision: Precision,
    *,
    frame_hw: tuple[int, int],
    repetitions: int,
    done: Callable[[], None] = lambda: None,
) -> StartUp:
    """Start the service under all conditions in turns.

    Args:
        done: is told after each start.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine, or lacks that precision.
        BenchError: it cannot be used in that precision; or the service did not start as it should.
    """
    require_engine_in(bundle, precision)
    starts: dict[Condition, list[Start]] = {}
    why_not_cold = _drop_files_from_memory()
    with TemporaryDirectory(prefix="heatline-bench-") as folder:
        line, cache = LineFile(Path(folder), bundle, precision, frame_hw), Path(folder) / "cache"
        cache.mkdir(mode=0o700)
        line.start(cache)  # which fills it, and brings all files into memory
        done()
        for number in range(repetitions):
            for condition in _turn(number, cold=why_not_cold is None):
                if condition in COLD:
                    _drop_files_from_memory()
                with _use_of(cache) as use:
                    starts.setdefault(condition, []).append(line.start(cache if condition in CACHED else None))
                    if (came := use()) != (expected := "taken from" if condition in CACHED else "left alone"):
                        raise BenchError(
                            f"a start that was to be {condition} did not use the model cache as it should: it was "
                            f"{came}, expected {expected}; report this"
                        )
                done()
        line.start(None, options=["-X", "importtime"])
        done()
        imports = import_times_ms(line.log.read_text(errors="replace"))
    return StartUp(
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        precision=precision,
        frame_hw=frame_hw,
        bytes_of_bundle=sum(file.stat().st_size for file in bundle.path.iterdir()),
        repetitions=repetitions,
        conditions={
            condition: _starts(starts[condition], starts["warm"]) for condition in IN_WORDS if condition in starts
        },
        why_not_cold=why_not_cold,
        imports_ms=dict(imports),
    )


def starts_in_all(repetitions: int) -> int:
    """At most, for a bar of progress."""
    return len(IN_WORDS) * repetitions + 2


def _turn(number: int, *, cold: bool) -> list[Condition]:
    """The conditions in their order, the first of which is another one each time."""
    these: list[Condition] = [condition for condition in IN_WORDS if cold or condition not in COLD]
    first = number % len(these)
    return [*these[first:], *these[:first]]


def _drop_files_from_memory() -> str | None:
    """Have files read from the disk again; why that cannot be, in words. Libraries that this process uses stay."""
    try:
        os.sync()
        DROP_CACHES.write_text("3")
    except OSError as error:
        return f"{DROP_CACHES} cannot be written ({error.strerror}); it takes root"
    return None


@contextmanager
def _use_of(cache: Path) -> Iterator[Callable[[], CacheUse]]:
    """What a start makes of the graphs there, asked after it.

    One that was taken goes back as the very file, with a new time; one that was refused makes room for another file.
    """
    with ExitStack() as at_end:
        # Held open meanwhile: the number of a file that is gone would go to the next one.
        held = {path: at_end.enter_context(path.open("rb")) for path in cache.iterdir()}
        before = {path: os.fstat(file.fileno()) for path, file in held.items()}

        def use() -> CacheUse:
            after = {path: path.stat() for path in cache.iterdir()}
            if after.keys() != before.keys() or not all(os.path.samestat(after[path], before[path]) for path in after):
                return "filled anew"
            used = any(after[path].st_mtime_ns != before[path].st_mtime_ns for path in after)
            return "taken from" if used else "left alone"

        yield use


def _starts(these: Sequence[Start], warm: Sequence[Start]) -> Starts:
    return Starts(
        ready_s=Spread.of([one.ready_s for one in these]),
        first_verdict_s=Spread.of([one.first_verdict_s for one in these]),
        cpu_ready_s=Spread.of([one.cpu_ready_s for one in these]),
        phases_s={name: Spread.of([one.phases_s[name] for one in these]) for name in these[0].phases_s},
        ready_to_warm=Spread.of([one.ready_s / other.ready_s for one, other in zip(these, warm, strict=True)]),
        starts=list(these),
    )


def to_facts(found: StartUp, *, is_virtual: bool = False) -> dict[str, object]:
    """The same for people.

    Args:
        is_virtual: whether the machine is, as `bench.machine` tells.
    """
    height, width = found.frame_hw
    facts: dict[str, object] = {
        "line": f"{found.bundle} ({found.bytes_of_bundle / 1e6:.0f} MB) in {found.precision}, one drawn camera of "
        f"{width}x{height} px",
        "figures": f"median (lowest to highest) of {found.repetitions} starts, from the start of the process",
    }
    for condition, starts in found.conditions.items():
        facts[IN_WORDS[condition]] = (
            f"READY after {starts.ready_s:.2f} s, {starts.ready_to_warm.median:.2f} of warm; processor time by then "
            f"{starts.cpu_ready_s:.2f} s; first verdict after {starts.first_verdict_s:.2f} s"
        )
        facts[f"{condition}, of that"] = ", ".join(
            f"{name} {taken.median:.2f}" for name, taken in starts.phases_s.items()
        )
    if found.why_not_cold is not None:
        facts["cold"] = f"not measured: {found.why_not_cold}"
    elif is_virtual:
        facts["cold"] = "this machine is virtual: its host may hold the files in memory still, so a real disk is slower"
    facts["imports"] = ", ".join(f"{name} {ms:.0f} ms" for name, ms in list(found.imports_ms.items())[:8])
    return facts
