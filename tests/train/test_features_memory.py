"""How much memory a training may still take, with files as the kernel writes them."""

from pathlib import Path

from heatline.train.dense.cache import available_bytes

GIB = 2**30


def kernel(folder: Path, available_gib: int, group: str = "/") -> tuple[Path, Path]:
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available_gib * 2**20} kB\n")
    (proc / "self" / "cgroup").write_text(f"0::{group}\n")
    (cgroups / group.strip("/")).mkdir(parents=True)
    return proc, cgroups


def limit(folder: Path, most: str, used: int) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_the_machine_s_available_memory_counts_if_no_group_has_a_limit(tmp_path: Path) -> None:
    proc, cgroups = kernel(tmp_path, 8, "/system.slice/a.service")
    limit(cgroups / "system.slice" / "a.service", "max", GIB)
    assert available_bytes(proc, cgroups) == 8 * GIB


def test_the_lowest_limit_of_the_group_and_those_above_counts(tmp_path: Path) -> None:
    proc, cgroups = kernel(tmp_path, 8, "/system.slice/a.service")
    limit(cgroups / "system.slice" / "a.service", str(6 * GIB), GIB)
    assert available_bytes(proc, cgroups) == 5 * GIB
    limit(cgroups / "system.slice", str(3 * GIB), GIB)
    assert available_bytes(proc, cgroups) == 2 * GIB
    limit(cgroups / "system.slice", str(GIB), 2 * GIB)
    assert available_bytes(proc, cgroups) == 0


def test_a_container_sees_its_own_group_as_the_topmost(tmp_path: Path) -> None:
    proc, cgroups = kernel(tmp_path, 8)
    limit(cgroups, str(2 * GIB), 0)
    assert available_bytes(proc, cgroups) == 2 * GIB


def test_of_this_machine_some_memory_is_available() -> None:
    assert available_bytes() > 0
