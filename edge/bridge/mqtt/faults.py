"""Says in a sentence why a broker cannot be used: what came, what was expected, what to do."""

import socket
import ssl

from paho.mqtt.reasoncodes import ReasonCode

from heatline.edge.config.mqtt import MqttConfig

_OTHER_NAME = (
    "the broker's certificate is not for HOST; set a host name of the certificate in mqtt.broker, or add this one "
    "to the certificate"
)
_CERTIFICATES = {
    10: "the broker's certificate has expired; renew it there, or correct this PC's clock",
    9: "the broker's certificate is not valid yet; correct this PC's clock, or the certificate",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
"""By OpenSSL's code: X509_V_ERR_CERT_HAS_EXPIRED, _NOT_YET_VALID, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH."""
_AGAINST_RFC_5280 = range(80, 94)
"""X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA to _EXTENSIONS_REQUIRE_VERSION_3, for which Python looks since 3.13."""
OF_THE_MESSAGE = {0x95, 0x99}
"""Reason codes that refuse a message for what it is: packet too large, payload format invalid. It is refused again
whenever it comes, so waiting for another answer would only hold up the messages behind it."""
ENDED_BY_A_MESSAGE = {*OF_THE_MESSAGE, 0x82}
"""Reasons of an end that a message can have caused. 0x82, protocol error, is also what paho calls a PUBACK with a code
that no PUBACK can have: mosquitto sends 0x95 if its message_size_limit is exceeded."""
NO_SUBSCRIBERS = 0x10
_UNSUPPORTED_VERSION = (0x01, 0x84)
_REFUSED_LOGINS = {
    0x85: "it does not take the client id {client_id!r}; set mqtt.client_id",
    0x86: "user or password is wrong; correct mqtt.user and mqtt.password_file, or the broker's users",
    0x87: "this client is not authorized; correct mqtt.user, mqtt.password_file or mqtt.certificate, or the broker's "
    "access rules",
    0x8A: "this client is banned; ask the broker's administrator",
    0x8C: "it expects another way to log in; set mqtt.user and mqtt.password_file, or mqtt.certificate and mqtt.key",
}


def describe_no_connection(error: Exception, config: MqttConfig) -> str:
    """Return why no connection came about."""
    at = config.broker
    match error:
        case ssl.SSLCertVerificationError():
            return f"{at}: {_describe_certificate(error, config)}"
        case ssl.SSLError() | ConnectionResetError() if config.has_tls:
            why = getattr(error, "reason", error.strerror)
            return f"{at} does not speak TLS 1.2 or newer ({why}); correct the port in mqtt.broker, or the broker"
        case socket.gaierror():
            return f"{at} cannot be reached: no machine has the name {config.host!r} ({error.strerror}); check the DNS"
        case TimeoutError():
            return f"{at} cannot be reached: it does not answer; check address, network and firewall"
        case OSError():
            return f"{at} cannot be reached ({error.strerror or error}); start the broker, or correct mqtt.broker"
        case _:
            return f"{at} cannot be reached: {error}; check mqtt.broker"


def describe_refused_login(reason: ReasonCode, config: MqttConfig, client_id: str) -> str:
    """Return why the broker answered the connection with a refusal."""
    if reason.value in _UNSUPPORTED_VERSION:
        return f"{config.broker} does not speak MQTT 5; use a broker that does"
    known = _REFUSED_LOGINS.get(reason.value)
    why = f"{reason}; see the broker's log" if known is None else known.format(client_id=client_id)
    return f"{config.broker} refuses the connection: {why}"


def describe_early_end(config: MqttConfig, problem: str | None) -> str:
    """Return why the connection ended, or stayed silent, before the broker took it."""
    said = "" if problem is None else f" ({problem})"
    if config.has_tls and config.certificate is None:
        do = "it may require a certificate: mqtt.certificate and mqtt.key"
    elif config.has_tls:
        do = "it may not accept mqtt.certificate, which may have expired or be signed by another authority"
    else:
        do = "it may require TLS (mqtts://), or be no MQTT broker"
    return f"{config.broker} did not take the connection{said}; {do}; see the broker's log"


def describe_end(reason: ReasonCode | None, problem: str | None, config: MqttConfig, client_id: str) -> str:
    """Return why an established connection ended."""
    if reason is not None and reason.value == 0x8E:
        return (
            f"{config.broker} ended the connection: another client with the id {client_id!r} has connected; give each "
            "bridge its own mqtt.client_id"
        )
    why = reason or problem
    return f"{config.broker} ended the connection, or it was lost" + ("" if why is None else f" ({why})")


def describe_refused_message(topic: str, reason: ReasonCode) -> str:
    """Return why results wait although the broker is connected."""
    if reason.value == NO_SUBSCRIBERS:
        return (
            f"nobody subscribes to {topic}; results wait at the line until somebody does; if nobody needs them, set "
            "mqtt.wait_for_subscriber = false"
        )
    return (
        f"the broker refuses messages on {topic} ({reason}); they are published again until it takes them, and the "
        "results behind them wait at the line; correct its access rules or limits"
    )


def _describe_certificate(error: ssl.SSLCertVerificationError, config: MqttConfig) -> str:
    if error.verify_code in _AGAINST_RFC_5280:
        return (
            f"the broker's certificate, or its authority's, is not as RFC 5280 requires ({error.verify_message}); make "
            "it again with what it lacks"
        )
    trusted = "an authority that this PC trusts" if config.ca is None else "mqtt.ca"
    other = (
        f"the broker's certificate is not signed by {trusted} ({error.verify_message}); name the certificate of its "
        "authority in mqtt.ca"
    )
    return _CERTIFICATES.get(error.verify_code, other).replace("HOST", repr(config.host))
