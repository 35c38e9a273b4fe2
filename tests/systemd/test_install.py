"""Install, upgrade and roll back with the real package, without a network."""

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from heatline.edge import __version__ as VERSION
from tests.systemd.machines import NEXT_VERSION, LinePc


@pytest.fixture
def pc() -> Iterator[LinePc]:
    """A line PC without heatline."""
    with LinePc() as empty:
        yield empty


@pytest.fixture
def pc_in_use(installed: Path) -> Iterator[LinePc]:
    """A line PC with heatline."""
    with LinePc(installed) as found:
        yield found


def changed(package: Path, to: Path, file: str, text: str, *, sealed: bool = True) -> Path:
    """Copy the package with one file replaced; `sealed`: with correct checksums."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(package, to)
    (to / file).write_text(text)
    if sealed:
        listed = [line.split("  ")[1] for line in (package / "SHA256SUMS").read_text().splitlines()]
        sums = subprocess.run(["sha256sum", *listed], cwd=to, capture_output=True, text=True, check=True)
        (to / "SHA256SUMS").write_text(sums.stdout)
    return to


def refused(pc: LinePc, package: Path, *options: str) -> str:
    """Check that an installation fails with one sentence and leaves no files; return the sentence."""
    listing = "ls -A /opt; ls -A /opt/heatline 2>/dev/null | grep -v .lock || true"
    before = pc.sh(listing)
    result = pc.run("sh", package / "install.sh", *options)
    assert result.returncode == 1, result.stdout
    assert pc.sh(listing) == before
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


@pytest.mark.long
def test_the_archive_holds_every_listed_file_unchanged(package: Path, tmp_path: Path) -> None:
    from systemd.package import pack

    archive = pack(package)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
        assert {(member.uid, member.gid) for member in tar.getmembers()} == {(0, 0)}
    archive.unlink()
    unpacked = tmp_path / package.name
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=unpacked, check=True)
    listed = {line.split("  ")[1] for line in (unpacked / "SHA256SUMS").read_text().splitlines()}
    found = {str(each.relative_to(unpacked)) for each in unpacked.rglob("*") if each.is_file()}
    assert found == listed | {"SHA256SUMS"}
    shutil.rmtree(unpacked)


@pytest.mark.long
def test_files_installed_from_a_read_only_stick_have_their_places_owners_and_modes(pc: LinePc, package: Path) -> None:
    pc.sh(f"mkdir '/mnt/USB STICK' && mount --bind '{package}' '/mnt/USB STICK'")
    pc.sh("mount -o remount,bind,ro,noexec '/mnt/USB STICK'")
    assert f"heatline {VERSION} is active" in pc.sh("umask 077; cd / && sh 'mnt/USB STICK/install.sh'")
    assert pc.sh("readlink /opt/heatline/current") == VERSION
    assert pc.sh("! readlink /opt/heatline/previous && echo none") == "none"
    made = "/etc/heatline /etc/heatline/trusted /etc/heatline/keys /etc/heatline/keys/allowed"
    assert pc.sh(f"stat -c '%U:%G %a' {made}").splitlines() == ["root:heatline 750", *["root:root 755"] * 3]
    hidden = "! -type l ! -perm -a=r -o -type d ! -perm -a=x -o ! -user root"
    assert pc.sh(f"find /opt/heatline {hidden}") == ""
    share = "/opt/heatline/current/share/heatline"
    pc.sh(f"cmp {share}/heatline@.service /usr/local/lib/systemd/system/heatline@.service")
    pc.sh(f"cmp {share}/rollback.sh /usr/local/sbin/heatline-rollback && test -x /usr/local/sbin/heatline-rollback")
    verified = pc.run("systemd-analyze", "verify", "--man=no", "heatline@line1.service")
    assert "heatline" not in verified.stdout + verified.stderr


@pytest.mark.long
def test_a_damaged_installation_is_replaced_by_another_folder(pc_in_use: LinePc, package: Path) -> None:
    pc_in_use.sh("rm -r /opt/heatline/current/lib/python3*/site-packages/openvino")
    pc_in_use.install(package)
    assert pc_in_use.sh("readlink /opt/heatline/current /opt/heatline/previous").splitlines() == [
        f"{VERSION}-2",
        VERSION,
    ]
    pc_in_use.sh("heatline bundle verify /opt/heatline/current/share/heatline/rehearsal.bundle")


def test_only_root_can_install_and_nobody_while_another_does(pc_in_use: LinePc, next_package: Path) -> None:
    as_nobody = "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"
    result = pc_in_use.run(*as_nobody, "sh", "-s", "--", stdin=next_package / "install.sh")
    assert result.returncode == 1
    assert result.stderr == "install.sh: only root can install to /opt/heatline, but you are nobody; run this as root\n"
    with subprocess.Popen(
        pc_in_use.words("flock", "/opt/heatline/.lock", "sh", "-c", "echo held; read -r _"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        assert "another installation is running" in refused(pc_in_use, next_package)


def test_installing_the_same_package_again_changes_nothing_but_older_versions_on_request_and_if_unused(
    pc_in_use: LinePc, package: Path
) -> None:
    pc = pc_in_use
    pc.sh("cd /opt/heatline && mkdir -p 0.0.1/bin 0.0.2/bin others && ln -s /usr/bin/python3 0.0.2/bin/python")
    pc.sh("cd /opt/heatline && touch 0.0.1/pyvenv.cfg 0.0.2/pyvenv.cfg")
    with subprocess.Popen(
        pc.words("/opt/heatline/0.0.2/bin/python", "-c", "print('runs', flush=True); input()"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as line:  # fmt: skip
        assert line.stdout.readline() == "runs\n"
        output = pc.sh(f"sh '{package}/install.sh' --remove-older")
        assert "installed already" in output and "still runs with 0.0.2" in output  # noqa: PT018
        line.communicate("\n")
    assert pc.sh("ls /opt/heatline").split() == ["0.0.2", VERSION, "current", "others"]


def test_an_impossible_rollback_gives_a_reason_and_changes_nothing(pc_in_use: LinePc, package: Path) -> None:
    pc_in_use.sh(f"install -m 755 '{package}/share/rollback.sh' /usr/local/sbin/heatline-rollback")
    for words, sentence in (
        ("heatline-rollback", "there is no former version"),
        ("heatline-rollback 9.9", f"not completely, in /opt/heatline; name one of these: {VERSION}"),
        ("mkdir -p /opt/heatline/0.0.1/bin; heatline-rollback 0.0.1", "0.0.1 is not installed, or not completely"),
        ("heatline-rollback ../../etc", "is not a version"),
        ("heatline-rollback --back", "there is no option --back"),
        ("setpriv --reuid=65534 --regid=65534 --clear-groups heatline-rollback", "only root"),
        (
            f"install -D '{package}/SHA256SUMS' /opt/heatline/0.0.2/share/heatline/SHA256SUMS; "
            "ln -s /bin/false /opt/heatline/0.0.2/bin; heatline-rollback 0.0.2",
            f"0.0.2 does not start on this machine, see above; {VERSION} is still active",
        ),
    ):
        result = pc_in_use.run("sh", "-c", words)
        assert result.returncode == 1
        assert sentence in result.stderr.splitlines()[-1]
        assert pc_in_use.sh("readlink /opt/heatline/current") == VERSION


def test_an_incomplete_installation_is_deleted_on_a_full_disk(pc: LinePc, next_package: Path, tmp_path: Path) -> None:
    pc.sh(f"mount -t tmpfs -o size=2m small /opt && mkdir -p /opt/heatline/{NEXT_VERSION}/bin")
    target = re.sub(r"size_mib=.*", "size_mib=1", (next_package / "target").read_text())
    result = pc.run("sh", changed(next_package, tmp_path / "package", "target", target) / "install.sh")
    assert result.returncode == 1
    assert f"Deleting /opt/heatline/{NEXT_VERSION}, an incomplete installation" in result.stdout
    assert re.search("pip cannot install the wheels: .*No space left on device.*; nothing has changed", result.stderr)
    assert pc.sh("ls /opt/heatline") == ""


def test_a_package_that_is_damaged_does_not_work_or_is_for_another_machine_is_refused(
    pc_in_use: LinePc, next_package: Path, tmp_path: Path
) -> None:
    """The one whose bundle cannot be verified is like one on a processor that computes wrongly. That pip fails is
    tested with a full disk."""
    active, target = rf"{re.escape(VERSION)} is still active", (next_package / "target").read_text()
    wheel, manifest = f"wheels/heatline-{NEXT_VERSION}-py3-none-any.whl", "share/rehearsal.bundle/manifest.json"
    for file, text, sealed, sentence in (
        (wheel, "not what was packed", False, rf"{wheel}: FAILED, so the package is damaged"),
        (manifest, "{}", True, rf"heatline {NEXT_VERSION} does not work on this machine: .*{active}"),
        ("target", "machine=aarch64", True, "this machine is x86_64, but the package is for aarch64"),
        ("target", "glibc=9.10", True, "but the package needs 9.10 or newer"),
        ("target", "python=3.9", True, r"is Python 3\.\d+, but the package is for 3\.9"),
    ):
        if file == "target":
            text = re.sub(rf"{text.partition('=')[0]}=.*", text, target)
        output = refused(pc_in_use, changed(next_package, tmp_path / "package", file, text, sealed=sealed))
        assert re.search(sentence, output, re.DOTALL), output
    assert pc_in_use.sh("/opt/heatline/current/bin/heatline --version") == f"heatline, version {VERSION}"


def test_a_missing_file_a_wrong_option_a_hidden_python_and_a_small_disk_are_refused(
    pc_in_use: LinePc, next_package: Path, tmp_path: Path
) -> None:
    lacking = changed(next_package, tmp_path / "package", "requirements.txt", "")
    (lacking / "requirements.txt").unlink()
    assert "requirements.txt" in refused(pc_in_use, lacking)
    pc_in_use.sh("mount -t tmpfs -o mode=755 home /home && cp -L /usr/bin/python3 /home/python3")
    for options, words in (
        (["--force"], "--force"),
        (["--python"], "--python"),
        (["--python", "/usr/bin/python9"], "there is no /usr/bin/python9"),
        (["--python", "/home/python3"], "which the service cannot read"),
    ):
        assert words in refused(pc_in_use, next_package, *options)
    pc_in_use.sh("mount -t tmpfs -o size=1m small /opt/heatline")
    assert re.search(r"/opt/heatline has \d+ MiB free, but heatline \S+ needs \d+", refused(pc_in_use, next_package))
