"""Options of the server: their bounds, and where it may listen."""

import argparse
from pathlib import Path

import pytest

from pieria.config import add_arguments, collect
from pieria.server.config import ServerConfig, is_loopback


def test_it_listens_on_this_machine_only_unless_told() -> None:
    assert ServerConfig().host == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    assert ServerConfig(host=host).api_key == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", "", "localhost."])
def test_elsewhere_a_key_is_needed(host: str) -> None:
    with pytest.raises(ValueError, match=r"no API key is set; set api_key or api_key_file, or"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, api_key=("secret",)).host == host
    assert ServerConfig(host=host, api_key_file=Path("keys")).host == host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("max_logprobs", -1),
        ("max_logprobs", 101),
        ("max_body_bytes", 1023),
        ("max_queued_requests", -1),
        ("stream_interval", 0),
        ("body_timeout_seconds", 0.0),
        ("keep_alive_seconds", 0),
        ("health_timeout_seconds", float("nan")),
        ("shutdown_timeout_seconds", -0.5),
    ],
)
def test_bounds(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}=.* must be from .* to "):
        ServerConfig(**{name: value})


def test_on_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, ServerConfig)
    line = "--api-key a b --host 0.0.0.0 --max-body-bytes 1MiB --served-model-name m"
    (config,) = collect(parser.parse_args(line.split()), None, ServerConfig)
    assert config == ServerConfig(
        host="0.0.0.0", api_key=("a", "b"), max_body_bytes=2**20, served_model_name=("m",)
    )
