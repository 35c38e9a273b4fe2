"""Changes the file of a running line and has the line read it: another bundle, a shadow, or back to the former bundle.

If the line refuses the file, it is as before again.
"""

import contextlib
import json
import os
import re
import signal
import time
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from heatline.edge.bundle import open_bundle
from heatline.edge.config import load_config
from heatline.edge.delivery.client import require_authorized
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import CommandRefusedError, ConfigError, DeliveryError
from heatline.edge.monitor.pictures import ask_to_reload, picture_socket
from heatline.edge.target import KeyFiles, endpoint_of, file_of
from heatline.edge.util.files import replacing, writing
from heatline.edge.wire.events import ChangeEvent, Event, Message, StatusEvent

STATUS_WITHIN_SECONDS = 5.0
"""A running line publishes its status about once a second."""
POLL_SECONDS = 0.5
"""Longest wait of the subscriber for a message."""
WITHIN_SECONDS = 60.0
KEY_LINE = r"""^([ \t]*%s[ \t]*=[ \t]*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\{[^\n]*\})[^\n]*\n?"""
TOP_COMMENT = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*")
"""What stands before the first key or table. It ends with a line break, or is empty."""
LINES_OWN = KeyFiles()
Value = Path | Mapping[str, Any] | None
BUNDLE, SHADOW, FORMER = "bundle", "shadow", "former"
Wanted = Mapping[str, Path | None]
"""Keys of a line's file and their new values; None takes a key out."""


def activate(line: str, by: str, *, back: bool = False, timeout_s: float = WITHIN_SECONDS) -> ChangeEvent:
    """Make the shadow the line's bundle, or return to the former bundle. The one that was replaced is the shadow then,
    so that the two are compared as before. A HeatlineError: there is no such bundle, the line refuses it, or its file
    cannot be written.
    """
    file = file_of(line)
    config = load_config(file)
    wanted = config.former if back else config.shadow
    if wanted is None:
        what = "former bundle to return to" if back else "shadow bundle to activate"
        raise ConfigError(f"{file} names no {what}; name a bundle: heatline reload {line} --bundle BUNDLE")
    if not back and wanted == config.former:
        raise ConfigError(f"{wanted} is the bundle before this one; return to it with heatline shadow {line} --back")
    changes = {BUNDLE: wanted, SHADOW: config.bundle, FORMER: None if back else config.bundle}
    return rewrite(line, changes, by, timeout_s=timeout_s)


def use_bundle(line: str, bundle: Path, by: str) -> ChangeEvent:
    """Inspect by a bundle if the line collects, else have it judge the line's frames as shadow; errors as `rewrite`."""
    key = BUNDLE if load_config(file_of(line)).bundle is None else SHADOW
    return rewrite(line, {key: bundle.absolute()}, by)


def rewrite(
    line: str,
    changes: Wanted,
    by: str,
    *,
    product: str | None = None,
    timeout_s: float = WITHIN_SECONDS,
    key_files: KeyFiles = LINES_OWN,
) -> ChangeEvent:
    """Change keys of a line's file, or of one of its products, and have the line read it. A CommandRefusedError: the
    line refuses the file, which is as before.
    """
    file = file_of(line)
    for path in {changes.get(BUNDLE), changes.get(SHADOW)} - {None}:
        open_bundle(path)  # type: ignore[arg-type]
    before = file.read_bytes()
    text = before.decode("utf-8-sig")
    for key, value in changes.items():
        text = with_key(text, key, value, product, file)
    after = text.encode()
    try:
        return reload_line(line, by, timeout_s, key_files, partial(replace_file, file, after))
    except CommandRefusedError as error:
        is_ours = file.read_bytes() == after
        if is_ours:
            replace_file(file, before)
        state = "is as before" if is_ours else "was changed meanwhile, and is left so: correct its bundle by hand"
        raise CommandRefusedError(error.reason, f"{error.detail}; {file} {state}") from error


def with_key(text: str, key: str, value: Value, product: str | None, file: Path, camera: str | None = None) -> str:
    """Return the text of a line's file with another value of a key. Comments, order and all other keys stay.

    Of all places where the key could be, it changes the one whose change gives the wanted tables, so that it needs no
    TOML parser that writes. A key that is not there yet comes after `bundle`, and without one after the first comment;
    of a camera after its `name`.

    Args:
        value: a mapping becomes an inline table; None takes the key out.
        product: one that the file has, whose key is changed; None: the line's own.
        camera: one that the file has, whose key is changed.
    """
    wanted = tomllib.loads(text)
    table, name = ("products", product) if camera is None else ("cameras", camera)
    owner = wanted if name is None else next(each for each in wanted[table] if each["name"] == name)
    is_there = owner.pop(key, None) is not None
    if value is not None:
        owner[key] = value if isinstance(value, Mapping) else str(value)
    elif not is_there:
        return text
    # TOML has no surrogate pairs, so only the characters that must be escaped are.
    new = json.dumps(owner.get(key), ensure_ascii=False, separators=(", ", " = "))
    if key == BUNDLE and product is None and not is_there:
        first = TOP_COMMENT.match(text)
        assert first is not None
        return f"{first[0]}{key} = {new}\n{text[first.end() :]}"
    for found in re.finditer(KEY_LINE % (key if is_there else "name" if camera else BUNDLE), text, re.MULTILINE):
        start, end, put = found.start(2), found.end(2), new
        if value is None:
            start, end, put = found.start(), found.end(), ""
        elif not is_there:
            start, end, put = found.end(), found.end(), f"{key} = {new}\n"
        changed = f"{text[:start]}{put}{text[end:]}"
        with contextlib.suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(changed) == wanted:
                return changed
    where = key if name is None else f"{key} of {table[:-1]} {name}"
    how = f"{key} = {new}" if value is not None else f"take {key} out"
    raise ConfigError(f"{file} has no line that sets {where}; write it there by hand: {how}")


def replace_file(file: Path, data: bytes) -> None:
    """Replace a file. It keeps its mode and owner, so that the line's user can still read it."""
    or_else = ", or use the command as root: a service may not write the line's file"
    with writing(file, ConfigError, or_else=or_else), replacing(file) as new:
        status = file.stat()
        new.write_bytes(data)
        new.chmod(status.st_mode & 0o7777)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(new, status.st_uid, status.st_gid)


def reload_line(
    line: str, by: str, timeout_s: float, key_files: KeyFiles, before_request: Callable[[], None] = lambda: None
) -> ChangeEvent:
    """Reload a line's file; `before_request` is called once the line runs and can be asked. A CommandRefusedError: the
    line refuses the file. After other errors, it is not known whether it took it.
    """
    address, keys = endpoint_of(line, "events", key_files)
    with Subscriber(address, topics=["change", "status"], timeout_s=min(timeout_s, POLL_SECONDS), keys=keys) as events:
        status = _next(events, min(timeout_s, STATUS_WITHIN_SECONDS), lambda event: isinstance(event, StatusEvent))
        if not isinstance(status, StatusEvent):
            require_authorized(address, keys, zmq.SUB)
            raise DeliveryError(f"nothing came from {address}, so no line was asked to reload; is the line running?")
        try:
            os.kill(status.pid, 0)
            before_request()
            _ask(line, status.pid, by)
        except OSError as error:
            raise DeliveryError(
                f"process {status.pid} cannot be asked to reload ({error.strerror}); check that the line runs on this "
                "machine, and run this as the line's user or as root"
            ) from error
        change = _next(events, timeout_s, partial(_ends_reload, status.boot_id))
    if change is None:
        raise DeliveryError(
            f"the line {status.line!r} did not report the result of the reload within {timeout_s:g} s, and may "
            "still apply it; see its change events and its log"
        )
    if not isinstance(change, ChangeEvent):
        raise DeliveryError(
            f"the line {status.line!r} stopped before it reported the result of the reload; see its log"
        )
    if not change.applied:
        raise CommandRefusedError(None, change.detail or "the line's log says why")
    return change


def _ask(line: str, pid: int, by: str) -> None:
    """Ask by the socket of the pictures, which takes the name; a line that has none takes the signal."""
    with contextlib.suppress(DeliveryError):
        if "://" not in line:
            ask_to_reload(picture_socket(file_of(line)), by)
            return
    os.kill(pid, signal.SIGHUP)


def _next(events: Subscriber, timeout_s: float, wanted: Callable[[Event], bool]) -> Event | None:
    """Return the next event that is wanted; None: none came in time. After the first status, no event is missed."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        received = events.receive()
        if isinstance(received, Message) and wanted(received.event):
            return received.event
        if time.monotonic() >= deadline_s:
            return None


def _ends_reload(boot_id: str, event: Event) -> bool:
    """Return whether an event tells the result of a reload, or that the line of this boot has stopped."""
    if isinstance(event, StatusEvent):
        return event.state == "STOPPED" or event.boot_id != boot_id
    return isinstance(event, ChangeEvent) and event.change == "reload"
