"""A change of product, configuration or bundle while the line runs: activated between two frames, or refused."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.config import LineConfig, load_config
from heatline.edge.delivery.client import Commander
from heatline.edge.errors import CommandRefusedError, ConfigError
from heatline.edge.service.changeover import ProductMemory
from heatline.edge.wire.events import ChangeEvent, StatusEvent, VerdictEvent
from tests.command import DRAWN_BOARDS, sentence_of
from tests.edge.gv_cameras import need_aravis, viva_camera
from tests.edge.lines import ReceivedEvents, RunningLine, running, write_line_with
from tests.small_bundle import bundle_in

CAMERA = {"kind": "pattern", "draw_size": [240, 240], "rate_fps": 40, "on_overload": "block"}


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_in(tmp_path_factory.mktemp("bundles") / "other", ["f32", "int8"])


@pytest.fixture
def commands(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/commands"


class Line:
    """A line with the products a and b, which can be run again."""

    def __init__(
        self, folder: Path, bundle: Path, other: Path, address: str, commands: str, camera: Any = CAMERA
    ) -> None:
        self.address, self.commands, self.state = address, commands, folder / "state"
        self.state.mkdir()
        self.file = write_line_with(
            folder,
            bundle,
            address,
            {"top": camera},
            f'heatmaps = "never"\n\n[commands]\nbind = "{commands}"\n\n[[products]]\nname = "a"\n'
            f'\n[[products]]\nname = "b"\nbundle = "{other}"\n'
            "thresholds = { score = 7.5, check_plausibility = false }\n",
            top='product = "a"',
        )

    def running(self) -> Any:
        return running(self.file, self.address, env={"STATE_DIRECTORY": str(self.state)})

    def rewrite(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, other_bundle: Bundle, address: str, commands: str) -> Line:
    return Line(tmp_path, bundle.path, other_bundle.path, address, commands)


def until_inspected_as(run: RunningLine, product: str) -> VerdictEvent:
    return run.until(lambda event: isinstance(event, VerdictEvent) and event.product == product)


def end(run: RunningLine) -> ReceivedEvents:
    """End the line and return its events. Every frame is inspected except those that still waited."""
    received = run.end(["top"])
    assert set(received.last.ledger["top"].dropped) <= {"stopped"}
    return received


def test_a_product_is_activated_between_two_frames_and_no_frame_is_lost(
    tmp_path: Path, bundle: Bundle, address: str, commands: str
) -> None:
    """The other product's network takes time to prepare; meanwhile the line is BUSY, and inspects."""
    line = Line(tmp_path, bundle.path, DRAWN_BOARDS, address, commands)
    with line.running() as run, ThreadPoolExecutor(1) as aside, Commander(line.commands, 60) as to_line:
        first = until_inspected_as(run, "a")
        assert (first.bundle.digest, first.score_threshold) == (bundle.digest, -1.0)
        selected = aside.submit(to_line.select, "b")
        assert run.until_handshake("BUSY", "changing").detail == "product b is being prepared"
        assert run.until_inspected().product == "a"
        change = run.next_of(ChangeEvent)
        assert (change.change, change.applied, change.product) == ("select", True, "b")
        second = until_inspected_as(run, "b")
        reply = selected.result()
        assert (reply.product, reply.bundle.name) == ("b", second.bundle.name)
        assert (second.bundle.name, second.score_threshold) == ("drawn-boards", 7.5)
        run.until_handshake("READY")
        assert to_line.select("b").product == "b", "the active product is not a change"
        assert to_line.select("a").bundle.digest == bundle.digest
        until_inspected_as(run, "a")
        at_first = threads(run)
        for product in "ba" * 2:
            to_line.select(product)
            until_inspected_as(run, product)
        run.until(lambda _: threads(run) <= at_first + 4)  # each engine that is not used any more is closed
        received = end(run)
    assert [product for product, _ in groupby(event.product for event in received.verdicts)] == [*"abababa"]
    assert {event.applied for event in received.changes} == {True}
    assert min(event.seq for event in received.verdicts if event.product == "b") > received.changes[0].seq
    assert (received.last.product, getattr(received.last.last_change, "applied", None)) == ("a", True)


def threads(run: RunningLine) -> int:
    return len(list(Path(f"/proc/{run.process.pid}/task").iterdir()))


def test_the_selected_product_is_active_after_a_restart_else_the_files(line: Line) -> None:
    with line.running() as run, Commander(line.commands, 60) as to_line:
        until_inspected_as(run, "a")
        line.rewrite('product = "a"', 'product = "b"')
        assert run.reload().product == "b"
        to_line.select("a")
        run.next_of(ChangeEvent)
        assert run.reload().product == "a", "a reload undoes no selection"
        run.process.kill()
        run.process.wait()
    with line.running() as run:
        assert {run.next_of(VerdictEvent).product for _ in range(3)} == {"a"}
        run.end()


def test_a_reload_activates_the_file_and_an_invalid_file_or_product_changes_nothing(
    line: Line, bundle: Bundle, other_bundle: Bundle, address: str
) -> None:
    key, file = line.file.with_name("line.key"), line.file
    broken = shutil.copytree(other_bundle.path, file.with_name("broken"))
    (broken / "model.onnx").write_bytes(b"")
    with line.running() as run, Commander(line.commands, 60) as to_line:
        assert run.next_of(VerdictEvent).acting
        line.rewrite("allow_unsigned = true", "allow_unsigned = true\nacting = false\nthresholds.score = 3.5")
        line.rewrite(str(other_bundle.path), str(broken))
        assert run.reload().applied, "a reload opens only the active product"
        before = run.until(lambda event: isinstance(event, VerdictEvent) and not event.acting)
        assert before.score_threshold == 3.5
        good = file.read_text()
        edits: list[tuple[str, str, str]] = [
            ('name = "top"', 'name = "rear"', "cameras was 'top' and is 'rear' now; restart the line"),
            (str(bundle.path), "/nowhere", "/nowhere"),
            (address, "tcp://127.0.0.1:1", f"events.bind was '{address}'"),
            ("[commands]", "[journal]\nretain_mib = 15\n\n[commands]", "journal.retain_mib was 1024 and is 15 now"),
            ("[commands]", "[evidence]\n[commands]", "[evidence] was 'absent' and is 'present' now; restart the line"),
            ("[commands]", f'[security]\nkey = "{key}"\n\n[commands]', f"security.key was None and is '{key}'"),
            ("rate_fps = 40", "rate_fps = 20", "rate_fps of camera top was 40.0 and is 20.0 now; restart the line"),
            ("[[cameras]]", "[[nonsense", "is not valid TOML"),
            ("allow_unsigned = true", "", "signed"),
            ("thresholds.score = 3.5", "thresholds.score = nan", "thresholds.score is nan"),
            (good, "", "it lacks the key cameras"),
        ]
        nonsense: list[tuple[Callable[[], object], str]] = [
            *((partial(line.rewrite, old, new), why) for old, new, why in edits),
            (file.unlink, "cannot be read"),
        ]
        for edit, why in nonsense:
            edit()
            refused = run.reload()
            assert (refused.change, refused.applied, refused.bundle) == ("reload", False, before.bundle)
            assert why in str(refused.detail)
            file.write_text(good)
        status = run.until(lambda event: isinstance(event, StatusEvent) and event.last_change is not None)
        assert (status.last_change.applied, status.last_change.detail) == (False, refused.detail)
        with pytest.raises(CommandRefusedError, match="there is no product 'z'; expected one of a, b") as unknown:
            to_line.select("z")
        with pytest.raises(CommandRefusedError, match=r"model\.onnx") as unusable:
            to_line.select("b")
        assert (unknown.value.reason, unusable.value.reason) == ("unknown_product", "unusable")
        change = run.next_of(ChangeEvent)
        assert (change.change, change.applied, change.product) == ("select", False, "a")
        assert "model.onnx" in str(change.detail)
        run.until_inspected()
        received = end(run)
    assert [event.applied for event in received.changes] == [True] + [False] * (len(nonsense) + 1)
    after = [event for event in received.verdicts if not event.acting]
    assert {(event.bundle.digest, event.score_threshold, event.product) for event in after} == {
        (bundle.digest, 3.5, "a")
    }


@pytest.fixture
def gige(tmp_path: Path, bundle: Bundle, other_bundle: Bundle, address: str, commands: str) -> Iterator[Line]:
    need_aravis()
    with viva_camera() as device:
        keys = {"kind": "genicam", "address": device.ip, "chunks": ["ExposureTime"], "exposure_us": 800.0}
        line = Line(tmp_path, bundle.path, bundle.path, address, commands, keys)
        with line.file.open("a") as file:
            file.write('cameras = [{ name = "top", exposure_us = 400.0 }]\n')
        yield line


def test_no_frame_is_judged_for_a_product_with_another_exposure(gige: Line) -> None:
    with gige.running() as run, Commander(gige.commands, 60) as to_line:
        run.until_inspected()
        to_line.select("b")
        until_inspected_as(run, "b")
        to_line.select("a")
        until_inspected_as(run, "a")
        gige.rewrite("exposure_us = 400.0", "exposure_us = 99999999.0")
        assert run.reload().applied
        with pytest.raises(CommandRefusedError, match=r"camera top: .*exposure_us") as refused:
            to_line.select("b")
        assert refused.value.reason == "unusable"
        run.until_inspected()
        received = run.end(["top"])
    seen = {
        (event.product, event.chunks["ExposureTime"]) for event in received.verdicts if event.verdict != "NO_VERDICT"
    }
    assert seen == {("a", 800.0), ("b", 400.0)}
    assert [event.applied for event in received.changes] == [True, True, True, False]


PRODUCT_LINE = """
bundle = "a.bundle"
product = "a"

[[cameras]]
kind = "genicam"
name = "top"
size = [640, 480]
exposure_us = 800.0

[[cameras]]
kind = "pattern"
name = "side"
roi = [[[0, 0], [9, 0], [9, 9]]]
size = [640, 480]

[thresholds]
score = 2.5

[[products]]
name = "a"

"""


ALL_OF_IT = [[[0, 0], [640, 0], [640, 480], [0, 480]]]


def load(folder: Path, text: str) -> LineConfig:
    path = folder / "line.toml"
    path.write_text(text)
    return load_config(path)


@pytest.mark.parametrize(
    ("products", "complaint"),
    [
        ('[[products]]\nname = "b"\nexposure_us = 5\n', "products[b] does not know the key exposure_us"),
        ('[[products]]\nname = "b"\ncameras = [{ name = "rear" }]\n', "b names camera rear; the line has top, side"),
        ('[[products]]\nname = "b"\ncameras = [{ name = "top" }, { name = "top" }]\n', "names a camera twice"),
        (
            '[[products]]\nname = "b"\ncameras = [{ name = "side", exposure_us = 5 }]\n',
            "product b sets exposure_us of camera side, but cameras of kind 'pattern' do not have this key",
        ),
        (
            f'[[products]]\nname = "b"\ncameras = [{{ name = "top", exclude = {ALL_OF_IT} }}]\n',
            "product b, camera top: roi and exclude leave nothing",
        ),
        (
            '[[products]]\nname = "b"\ncameras = [{ name = "top", gain_db = 3.0 }]\n',
            "camera top: some products set gain_db, so a would keep the value of the product before",
        ),
    ],
)  # fmt: skip
def test_misleading_products_are_refused_with_a_reason(tmp_path: Path, products: str, complaint: str) -> None:
    assert complaint in sentence_of(ConfigError, load, tmp_path, PRODUCT_LINE + products)


def test_a_product_overrides_the_lines_settings_and_the_first_one_must_be_named(tmp_path: Path) -> None:
    others = '[[products]]\nname = "b"\nbundle = "b.bundle"\n[[products.cameras]]\nname = "side"\nroi = []\n'
    config = load(tmp_path, f'{PRODUCT_LINE}{others}[[products]]\nname = "c"\nthresholds = {{ score = 4.0 }}\n')
    found = [config.of_product(name) for name in "abc"]
    assert [each.bundle for each in found] == [tmp_path / f"{name}.bundle" for name in "aba"]
    assert [each.thresholds.score for each in found] == [2.5, None, 4.0], "another bundle has logits of its own"
    assert [len(each.cameras[1].roi) for each in found] == [1, 0, 1]
    for first, complaint in [("", "none is active at first; set product to"), ('product = "z"', "product is 'z'")]:
        with pytest.raises(ConfigError, match=complaint):
            load(tmp_path, PRODUCT_LINE.replace('product = "a"', first))


def test_a_failed_write_keeps_the_old_selection_and_is_told_until_it_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
    memory = ProductMemory(tmp_path, ["a", "b"], None)
    memory.store("a")
    (tmp_path / ".product.new").mkdir()
    memory.store("b")
    assert memory.fault == f"{tmp_path} cannot be written: a restart may undo the selection"
    assert ProductMemory(tmp_path, ["a", "b"], None).selected == "a"
    (tmp_path / ".product.new").rmdir()
    memory.store("b")
    assert (memory.fault, ProductMemory(tmp_path, ["a", "b"], None).selected) == (None, "b")
    assert synced[-1] == tmp_path, "the new name survives a power cut"
