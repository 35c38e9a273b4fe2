"""Ray on this machine: never a cluster by accident, and nothing that outlives its driver."""

import os
import subprocess
import sys
import tempfile
import time

import pytest

from heatline.edge import __version__
from heatline.edge.cluster import check_same_version, open_cluster
from heatline.edge.errors import ConfigError, DeliveryError
from tests.command import WITHIN_SECONDS
from tests.ray_head import AGENTS, LOCAL, descendants, is_alive


def test_a_local_ray_ignores_ray_address_listens_on_loopback_and_dies_with_its_driver() -> None:
    with tempfile.TemporaryDirectory() as folder:  # a killed driver leaves its files
        environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1", "TMPDIR": folder}
        command = [sys.executable, "-c", LOCAL]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as driver:
            try:
                assert driver.stdout is not None
                assert driver.stdout.readline().startswith("127.0.0.1:")
                started = descendants(driver.pid)
                assert any("raylet" in name for name in started.values()), started
            finally:
                driver.kill()
        until = time.monotonic() + WITHIN_SECONDS
        workers = {pid: name for pid, name in started.items() if name not in AGENTS}
        while alive := [name for pid, name in workers.items() if is_alive(pid, name)]:
            assert time.monotonic() < until, alive
            time.sleep(0.05)


def test_a_cluster_that_cannot_be_joined_is_reported_in_one_sentence_at_once(address: str) -> None:
    nobody = address.removeprefix("tcp://")
    for place, reason in (
        (nobody, "Connection refused"),
        (f"ray://{nobody}", "refused"),
        ("auto", "expected HOST:PORT"),
    ):
        with pytest.raises(DeliveryError, match=rf"the Ray cluster at {place} cannot be joined \(.*{reason}") as raised:
            open_cluster(place).__enter__()
        assert "\n" not in str(raised.value)


def test_a_node_with_another_version_refuses_the_work() -> None:
    check_same_version(__version__)
    with pytest.raises(ConfigError, match=rf"has heatline {__version__}, and .* has 0.0.0; install the same version"):
        check_same_version("0.0.0")
