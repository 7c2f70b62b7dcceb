"""How a live page is protected: tokens, certificates, names, and what is refused at the start."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamer.app.config import StreamConfig, read_config
from streamer.app.live_pages import LivePages
from streamer.app.web_options import access_rules, certificate
from streamer.common.errors import ConfigError
from streamer.sinks.page_address import PageAddress
from streamer.web.page import LivePage

TOKEN = "correct horse battery"
TLS = Path(__file__).parent / "tls"


def config(**values: Any) -> StreamConfig:
    return read_config(None, values)


def test_elsewhere_needs_a_token_and_the_line_names_the_option() -> None:
    with pytest.raises(ConfigError, match=r"http://0\.0\.0\.0:80\d\d can be reached from elsewhere.*--web-token"):
        access_rules(config(), PageAddress.parse("http://0.0.0.0:8080"))
    with pytest.raises(ConfigError, match="--web-token"):
        LivePages(config()).open(config(output="http://[::]:0").output)
    assert access_rules(config(web_token=TOKEN), PageAddress.parse("http://0.0.0.0:8080")).token == TOKEN
    assert access_rules(config(), PageAddress.parse("http://[::1]:8080")).token is None


@pytest.mark.parametrize("token", ["", "short", "7 chars", "hunter2\npassword", 12345678])
def test_a_token_that_can_be_guessed_is_refused_and_not_shown(token: object) -> None:
    with pytest.raises(ConfigError, match="web_token") as raised:
        config(web_token=token)
    assert "hunter2" not in str(raised.value)


def test_a_token_comes_from_where_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    read = config(web_token=f"${{file:{tmp_path / 'token'}}}")
    assert read.web_token == TOKEN
    assert TOKEN not in repr(read)


@pytest.mark.parametrize("name", ["http://a.example", "a.example:80", "a b", "a/b", "[::1]", ""])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="web_host"):
        config(web_host=[name])


@pytest.mark.parametrize(
    ("address", "options", "says"),
    [
        ("https://127.0.0.1", {}, "--web-cert FILE and --web-key FILE"),
        ("http://127.0.0.1", {"web_cert": TLS / "server.pem"}, "for https:// pages"),
        ("https://127.0.0.1", {"web_cert": TLS / "missing.pem"}, "can't be read: No such file"),
        ("https://127.0.0.1", {"web_cert": TLS / "ca.pem"}, "can't be used"),
        ("https://127.0.0.1", {"web_cert": TLS / "README.md"}, "can't be used"),
    ],
)
def test_a_certificate_is_checked_at_the_start(address: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        certificate(config(**options), PageAddress.parse(address))


def test_a_page_is_served_encrypted() -> None:
    options = config(web_token=TOKEN, web_cert=TLS / "server.pem")
    address = PageAddress.parse("https://127.0.0.1:0")
    trust = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
    with LivePage(address, access_rules(options, address), certificate(options, address)) as page:
        assert httpx.get(f"{page.address}/", verify=trust).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{page.address.port}/")


def test_a_name_of_a_proxy_is_served_where_it_is_named() -> None:
    address = PageAddress.parse("http://127.0.0.1:0")
    with LivePage(address, access_rules(config(web_host=["Cameras.Example"]), address)) as page:
        answers = [
            httpx.get(f"{page.address}/", headers={"Host": host}).status_code
            for host in ("cameras.example", "CAMERAS.EXAMPLE:443", "other.example")
        ]
    assert answers == [200, 200, 421]
