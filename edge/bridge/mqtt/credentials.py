"""Reads the files with which the bridge proves who it is, and verifies the broker."""

import ssl
from pathlib import Path

from heatline.edge.config.mqtt import MqttConfig
from heatline.edge.errors import AccessError
from heatline.edge.keys import read_secret


class _ClosedIfRefused(ssl.SSLSocket):
    """paho forgets a socket whose handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def tls_context(config: MqttConfig) -> ssl.SSLContext:
    """Return a context that verifies the broker's certificate and name.

    Raises:
        AccessError: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca)
    except (OSError, ssl.SSLError) as error:
        raise AccessError(
            f"mqtt.ca {config.ca} cannot be used ({_reason(error)}); expected the certificate of the authority that "
            "signed the broker's, in PEM"
        ) from error
    context.sslsocket_class = _ClosedIfRefused
    if config.certificate is not None:
        assert config.key is not None
        try:
            context.load_cert_chain(config.certificate, config.key, password="")  # never ask a terminal for one
        except (OSError, ssl.SSLError) as error:
            raise AccessError(
                f"mqtt.certificate {config.certificate} and mqtt.key {config.key} cannot be used ({_reason(error)}); "
                "expected PEM files that this user can read, the certificate's own key, and no password on it"
            ) from error
    return context


def read_password(path: Path) -> str:
    """Return the password in a file that only its owner can use.

    Raises:
        AccessError: the file cannot be read, others can use it, or it holds no password.
    """
    expected = "mqtt.password_file names a file with the password in one line, which this user owns"
    data = read_secret(path, AccessError, expected, "change the password")
    try:
        password = data.decode().strip("\r\n")
    except UnicodeDecodeError:
        password = ""
    if not password.isprintable() or not password:
        raise AccessError(f"mqtt.password_file {path} holds no password; expected one line of text in UTF-8")
    return password


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
