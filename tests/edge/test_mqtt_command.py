"""`heatline bridge mqtt` says in one sentence what is wrong with its configuration."""

from pathlib import Path

import pytest

from heatline.edge.config import load_config
from heatline.edge.errors import AccessError, ConfigError
from heatline.edge.service.changeover import require_exchangeable
from tests.command import complaint, heatline

LINE = """
bundle = "none.bundle"

[[cameras]]
kind = "pattern"
name = "top"

[journal]
bind = "tcp://127.0.0.1:5558"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "line1.toml"


def refused(file: Path, keys: str, code: int, line: str = LINE) -> str:
    """Check that the bridge ends with an exit code; return its sentence."""
    file.write_text(f"{line}\n{keys}")
    done = heatline("bridge", "mqtt", file)
    assert done.returncode == code
    return complaint(done)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("", "has no table [mqtt]; add one, see docs/plant-mqtt.md"),
        ("[mqtt]", "mqtt lacks the key broker; expected name, start, broker"),
        ('[mqtt]\nbroker = "broker.plant"', "mqtt.broker is 'broker.plant'; expected mqtts://HOST:PORT"),
        ('[mqtt]\nbroker = "mqtts://b:0"', "without TLS, PORT 1 to 65535"),
        ('[mqtt]\nbroker = "mqtt://10.0.0.1:1883"', "on another machine and without TLS"),
        ('[mqtt]\nbroker = "mqtts://b:8883"\nprefix = "acme/#"', "expected levels of a topic"),
    ],
)
def test_a_wrong_table_is_a_configuration_error(file: Path, keys: str, problem: str) -> None:
    assert problem in refused(file, keys, ConfigError.exit_code)


def test_a_line_that_does_not_serve_its_journal_has_no_bridge(file: Path) -> None:
    without = LINE.replace('bind = "tcp://127.0.0.1:5558"', "")
    assert "set journal.bind there" in refused(file, '[mqtt]\nbroker = "mqtt://localhost:1883"', 3, without)


def test_a_missing_file_is_an_access_error_before_anything_is_connected(file: Path) -> None:
    keys = '[mqtt]\nbroker = "mqtts://b:8883"\nca = "ca.pem"'
    sentence = refused(file, keys, AccessError.exit_code)
    assert f"mqtt.ca {file.parent / 'ca.pem'} cannot be used (No such file or directory)" in sentence
    keys = '[mqtt]\nbroker = "mqtts://b:8883"\nuser = "u"\npassword_file = "password"'
    assert f"{file.parent / 'password'} cannot be read (No such file or directory); mqtt.password_file" in refused(
        file, keys, AccessError.exit_code
    )


def test_a_changed_table_neither_restarts_the_line_nor_is_refused_by_it(file: Path) -> None:
    file.write_text(LINE)
    before = load_config(file)
    file.write_text(f'{LINE}\n[mqtt]\nbroker = "mqtts://b:8883"\nca = "ca.pem"')
    after = load_config(file)
    require_exchangeable(before, after)
    require_exchangeable(after, before)
    assert after.mqtt is not None
    assert after.mqtt.ca == file.parent / "ca.pem"
