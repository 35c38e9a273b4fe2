"""The limits that the system sets to a process."""

import contextlib
import resource

from heatline.edge.errors import ConfigError

FILES = 65536
LEAST_FILES = 256
LEAST_ADDRESSES = 2 << 30
"""A small bundle with two cameras began in 1.7 GB; below, OpenVINO or OpenBLAS ends the process without a message."""


def require_limits() -> None:
    """Raise the number of files that this process may open, and require what the smallest line needs.

    Raises:
        ConfigError: the system allows less.
    """
    with contextlib.suppress(OSError, ValueError):  # the unit forbids these calls, and sets limits itself
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if (wanted := FILES if most < 0 else min(most, FILES)) > files >= 0:  # negative: no limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            files = wanted
        if 0 <= files < LEAST_FILES:
            raise ConfigError(
                f"this process may open {files} files, expected at least {LEAST_FILES}; raise the limit, by ulimit -n "
                "or LimitNOFILE= of the unit"
            )
        addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
        if 0 <= addresses < LEAST_ADDRESSES:
            raise ConfigError(
                f"this process may use {addresses / 2**30:.1f} GiB of address space, expected at least "
                f"{LEAST_ADDRESSES >> 30} GiB; raise the limit, by ulimit -v or LimitAS= of the unit"
            )
