"""Ray, which spreads work over processes and machines: started on this machine, or a cluster that already runs."""

import logging
import os
import secrets
import signal
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from heatline.edge import __version__
from heatline.edge.errors import ConfigError, DeliveryError, Interrupted, last_line
from heatline.edge.util.process import cores, sigterm_as_ctrl_c

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # no upload of the working folder if `uv run` started heatline
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray would hide accelerators from tasks, and warn that it will not
    "RAY_task_oom_retries": "3",  # Ray would start a task that needs too much memory again for ever
}
CONNECT_SECONDS = 10.0
STORE_BYTES = 80 * 2**20
"""Size of a local object store; Ray refuses less than 75 MiB."""


@contextmanager
def interruptible() -> Iterator[None]:
    """End work that the same command continues at Ctrl-C and at SIGTERM; call it in the main thread."""
    try:
        with sigterm_as_ctrl_c():
            yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; the same command continues") from error


@contextmanager
def open_cluster(
    address: str | None, processors: int | None = None, *, store_bytes: int = STORE_BYTES
) -> Iterator[None]:
    """Start Ray on this machine, or join the cluster at an address, until the context ends; call it in the main thread.

    Without an address, Ray listens on loopback only, has no dashboard, and ends with this process, however it ends: its
    workers at once, two idle agents of Ray within a minute. RAY_ADDRESS has no effect. What is printed on standard
    output meanwhile is lost. SIGTERM has the effect that it had before.

    Args:
        address: `HOST:PORT` of a cluster's head, on one of its nodes, or `ray://HOST:PORT` from anywhere.
    """
    os.environ.update(SETTINGS)  # Ray's processes inherit them
    if address is None:
        # Listen on loopback only, on any system. Ray reads it as it is first imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one to the home folder
    import ray

    # A socket's path has at most 107 characters, and Ray adds 65 to the folder's.
    place = None if len(tempfile.gettempdir()) <= 20 else "/tmp"
    on_sigterm = signal.getsignal(signal.SIGTERM)
    logging.getLogger("ray").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory(prefix="heatline-ray-", dir=place, ignore_cleanup_errors=True) as folder,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),  # Ray prints there that workers have died; results alone belong there
    ):
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "configure_logging": False}
        if address is None:
            options |= {
                "address": "local",
                "num_cpus": processors or cores(),
                "num_gpus": 0,
                "object_store_memory": store_bytes,
                "include_dashboard": False,
                "_temp_dir": folder,
            }
        try:
            if address is not None:  # Ray would wait for minutes, and could not be interrupted
                host, _, port = address.removeprefix("ray://").rpartition(":")
                if not (host and port.isdecimal()):
                    raise ValueError("expected HOST:PORT or ray://HOST:PORT")
                socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
            with warnings.catch_warnings(action="ignore"):  # of what is an error here
                ray.init(**options)
        except SystemExit as error:  # Ray's handler of SIGTERM, which it sets while it starts
            raise KeyboardInterrupt from error
        except (OSError, OverflowError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
            raise DeliveryError(_describe_failure(address, error)) from error
        try:
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set a handler in C++, which prints a stack
            yield
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has removed all handlers


def _describe_failure(address: str | None, error: Exception) -> str:
    if address is None:
        return (
            f"Ray does not start on this machine ({last_line(error)}); make room in memory and in /tmp, or join a "
            "cluster with --address"
        )
    return (
        f"the Ray cluster at {address} cannot be joined ({last_line(error)}); start it with `ray start --head`, with "
        "the same versions of Python and Ray, or leave --address out to use this machine only"
    )


def check_same_version(expected: str) -> None:
    """Check, on a node, that it has the version of heatline that gave it its work."""
    if __version__ != expected:
        raise ConfigError(
            f"the node {os.uname().nodename} has heatline {__version__}, and the command that started the work has "
            f"{expected}; install the same version on all nodes"
        )
