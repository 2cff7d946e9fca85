"""TLS over sockets: versions, client certificates, new certificates while serving."""

import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from pieria.server import tls
from pieria.server.config import ServerConfig
from tests.server.fakes import LiveServer, Toy, until


class Files:
    """An authority, and what it signed for a server on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        self.issue()

    def issue(self) -> None:
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    @property
    def options(self) -> dict[str, Any]:
        return {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}

    def trusting(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=self.ca)
        if version is not None:
            made.minimum_version = made.maximum_version = version
        return made


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "ours")


def health(url: str, context: ssl.SSLContext) -> int:
    with httpx.Client(verify=context) as client:
        return client.get(url + "/health").status_code


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_versions(files: Files) -> None:
    with LiveServer(Toy(**files.options)) as live:
        assert live.url.startswith("https://127.0.0.1:")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert health(live.url, files.trusting(version)) == 200
        with pytest.raises(httpx.ConnectError):
            old = files.trusting(ssl.TLSVersion.TLSv1_1)
            old.set_ciphers("DEFAULT:@SECLEVEL=0")
            health(live.url, old)
        with pytest.raises(httpx.TransportError):
            httpx.get(live.url.replace("https", "http") + "/health")
    context = tls.context(live.toy.config)
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_client_certificates(files: Files, tmp_path: Path) -> None:
    clients, strangers = Files(tmp_path / "clients"), Files(tmp_path / "strangers")
    with LiveServer(Toy(**files.options, ssl_ca_certs=clients.ca)) as live:
        for who, welcome in ((clients, True), (strangers, False), (None, False)):
            context = files.trusting()
            if who is not None:
                context.load_cert_chain(who.certificate, who.key)
            if welcome:
                assert health(live.url, context) == 200
            else:
                with pytest.raises(httpx.TransportError):
                    health(live.url, context)


def served(url: str) -> str:
    address = httpx.URL(url)
    return ssl.get_server_certificate((address.host, address.port or 0))


def test_new_certificates_are_used_without_a_restart(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    with LiveServer(Toy(**files.options)) as live:
        first = served(live.url)
        files.issue()
        until(lambda: served(live.url) != first)
        second = served(live.url)
        files.key.write_text("not a key")
        until(lambda: "stays in use: ssl_certfile, ssl_keyfile, ssl_ca_certs (" in caplog.text)
        assert served(live.url) == second
        assert health(live.url, files.trusting()) == 200


def test_files_that_do_not_fit(files: Files, tmp_path: Path) -> None:
    other = Files(tmp_path / "other")
    for options in (
        {"ssl_certfile": files.certificate, "ssl_keyfile": other.key},
        {"ssl_certfile": tmp_path / "none"},
        {**files.options, "ssl_ca_certs": files.key},
    ):
        with pytest.raises(ValueError, match=r"ssl_certfile, ssl_keyfile, ssl_ca_certs \("):
            tls.context(ServerConfig(**options))
    with pytest.raises(ValueError, match="mean nothing without ssl_certfile"):
        ServerConfig(ssl_keyfile=files.key)
