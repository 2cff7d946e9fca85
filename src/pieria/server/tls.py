"""TLS: the context that connections are made with, and new certificates in it while it is used.

Knows files and Python's ssl. Does not know sockets.
"""

import ssl
from pathlib import Path

from pieria.server.config import ServerConfig


def context(config: ServerConfig) -> ssl.SSLContext | None:
    """TLS 1.2 or newer, with client certificates if `config` names who signs them; None without.

    ValueError if the files cannot be used.
    """
    if config.ssl_certfile is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.ssl_ca_certs is not None:
        made.verify_mode = ssl.CERT_REQUIRED
    load(made, config)
    return made


def load(into: ssl.SSLContext, config: ServerConfig) -> None:
    """Read the files; new connections use them. Authorities are only ever added to.

    ValueError if they cannot be used; then those of before stay.
    """
    assert config.ssl_certfile is not None
    try:
        # First on the side: a key that does not fit would already have replaced half of the pair.
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for each in (trial, into):
            each.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, _no_password)
            if config.ssl_ca_certs is not None:
                each.load_verify_locations(config.ssl_ca_certs)
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(map(str, files(config)))
        raise ValueError(f"ssl_certfile, ssl_keyfile, ssl_ca_certs ({names}): {error}") from error


def files(config: ServerConfig) -> list[Path]:
    """All files that TLS is made of."""
    named = (config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs)
    return [path for path in named if path is not None]


def _no_password() -> str:
    raise ssl.SSLError("the key is locked with a password; give one that is not")
