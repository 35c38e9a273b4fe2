"""Ray, which spreads work over processes and machines: started on this machine, or a cluster that already runs."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge import __version__
from edge.errors import ConfigError, DeliveryError, last_line
from edge.util.processor import cores

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray would hide accelerators from tasks, and warn that it will not
}
STORE_BYTES = 80 * 2**20
"""Size of a local object store; Ray refuses less than 75 MiB."""


@contextmanager
def open_cluster(
    address: str | None, processors: int | None = None, *, store_bytes: int = STORE_BYTES
) -> Iterator[None]:
    """Start Ray on this machine, or join the cluster at an address, until the context ends; call it in the main thread.

    Without an address, Ray listens on loopback only, has no dashboard, and dies with this process, however it ends.
    The environment variable RAY_ADDRESS has no effect.

    Args:
        address: `HOST:PORT` of a cluster's head, on one of its nodes, or `ray://HOST:PORT` from anywhere.
        processors: of this machine that Ray may use; default: those that this process may use.
        store_bytes: size of the object store of this machine.
    Raises:
        DeliveryError: Ray does not start, or the cluster cannot be joined.
    """
    os.environ.update(SETTINGS)  # read as Ray is imported; its processes inherit them
    import ray

    # A socket's path has at most 107 characters, and Ray adds 70 to the folder's.
    with tempfile.TemporaryDirectory(prefix="heatline-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        local: dict[str, Any] = {
            "address": "local",
            "num_cpus": processors or cores(),
            "object_store_memory": store_bytes,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
        }
        try:
            ray.init(
                **(local if address is None else {"address": address}), log_to_driver=False, logging_level="ERROR"
            )
        except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
            if address is None:
                raise DeliveryError(
                    f"Ray does not start on this machine ({last_line(error)}); make room in memory and in /tmp, or join "
                    "a cluster with --address"
                ) from error
            raise DeliveryError(
                f"the Ray cluster at {address} cannot be joined ({last_line(error)}); start it with `ray start --head`, "
                "with the same versions of Python and Ray, or leave --address out to use this machine only"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def check_same_version(expected: str) -> None:
    """Check, on a node, that it has the version of heatline that gave it its work.

    Raises:
        ConfigError: it has another one.
    """
    if __version__ != expected:
        raise ConfigError(
            f"the node {os.uname().nodename} has heatline {__version__}, and the command that started the work has "
            f"{expected}; install the same version on all nodes"
        )
