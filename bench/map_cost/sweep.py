"""All rows, one after the other; each is written as soon as it is there, and a sweep goes on where it was ended."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec

from bench.map_cost.graphs import ModelGraphs
from bench.map_cost.measure import measure
from bench.map_cost.rows import Cost, MapCosts, Row, Setting, row_of, setting_of
from bench.map_cost.tiles import drawn_tiles
from bench.result_file import read_result
from edge.errors import BenchError, HeatlineError
from train.config import CnnConfig, VitConfig

BENCH = "map-cost"
SAMPLES = 4
"""Tiles that int8's ranges are found with: what is measured is speed."""
SAME_MACHINE = (
    *("processor", "extensions", "governor", "cores", "affinity", "cpu_quota"),
    *("python", "versions", "commit"),
)
"""What figures in one file must have in common."""


def rows_in(path: Path, machine: Mapping[str, object]) -> list[Row]:
    """The rows of a result file that were measured on this machine by this code, none where there is no file.

    Raises:
        BenchError: it is another file, or of another machine or commit.
    """
    if not path.is_file() or not path.stat().st_size:
        return []
    report = read_result(path)
    try:
        if report.get("bench") != BENCH:
            raise msgspec.ValidationError(f"its bench is {report.get('bench')!r}")
        rows = msgspec.convert(report.get("rows"), list[Row])
        told = msgspec.convert(report.get("machine"), dict[str, Any])
    except msgspec.ValidationError as error:
        raise BenchError(
            f"{path} holds no rows of `heatline bench {BENCH}` ({error}); name another file with --out, or remove it"
        ) from error
    here = msgspec.to_builtins(machine)
    if other := [name for name in SAME_MACHINE if told.get(name) != here.get(name)]:
        raise BenchError(
            f"{path} was measured elsewhere ({', '.join(_difference(name, told, here) for name in other)}), and rows "
            "of one file must be of one machine and one commit; name another file with --out, or remove it"
        )
    return rows


class Sweep:
    """The rows that are asked for, in their order, and all that are known.

    Args:
        known: rows of before. Those that could not be measured are tried again: an engine may be there now.
    """

    def __init__(self, settings: Sequence[Setting], known: Sequence[Row]) -> None:
        self._settings = list(dict.fromkeys(settings))
        self._rows = {setting_of(row): row for row in known if row.cost is not None}

    @property
    def missing(self) -> list[Setting]:
        """What is still to be measured."""
        return [setting for setting in self._settings if setting not in self._rows]

    @property
    def rows(self) -> list[Row]:
        """Those that were asked for and are there."""
        return [self._rows[setting] for setting in self._settings if setting in self._rows]

    def run(self, measure: Callable[[Setting], Cost], keep: Callable[[MapCosts], None]) -> Iterator[Setting]:
        """Tell each setting, measure it, and keep all rows that are known so far.

        What cannot be measured is a row too, with the reason.

        Raises:
            BenchError: rows cannot be kept, or none could be measured.
            HeatlineError: the one row that was asked for cannot be measured.
        """
        for setting in self.missing:
            yield setting
            at_utc = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            load = [round(one, 2) for one in os.getloadavg()]
            try:
                row = row_of(setting, cost=measure(setting), at_utc=at_utc, load=load)
            except HeatlineError as error:
                if len(self._settings) == 1:
                    raise
                row = row_of(setting, not_done=str(error), at_utc=at_utc, load=load)
            self._rows[setting] = row
            keep(MapCosts(rows=list(self._rows.values())))
        if not any(row.cost for row in self.rows):
            raise BenchError(f"none of {len(self.rows)} rows could be measured; the first: {self.rows[0].not_done}")


def measurer(
    configs: Mapping[str, CnnConfig | VitConfig], left_out: Mapping[str, str], tile_px: int, say: Callable[[str], None]
) -> Callable[[Setting], Cost]:
    """What measures a setting. It keeps the graphs of one model at a time.

    Args:
        configs: by the model's name.
        left_out: models that are not measured, each with the one whose graph it is.
        say: is told what is done.
    """
    tiles = cache(partial(drawn_tiles, tile_px=tile_px))

    @lru_cache(maxsize=1)
    def graphs(model: str) -> ModelGraphs:
        return ModelGraphs(configs[model], tile_px, tiles(SAMPLES))

    def measured(setting: Setting) -> Cost:
        if other := left_out.get(setting.model):
            raise BenchError(f"it is the graph of {other}, and costs the same; --model {setting.model} measures it")
        return measure(setting, graphs(setting.model), tiles(setting.batch), say)

    return measured


def _difference(name: str, told: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What of a machine is another, in short."""
    there, now = told.get(name), here.get(name)
    if isinstance(there, dict) and isinstance(now, dict):
        changed = [one for one in {**there, **now} if there.get(one) != now.get(one)]
        return ", ".join(f"{one} {there.get(one)}, here {now.get(one)}" for one in changed)
    return f"{name} {there}, here {now}"
