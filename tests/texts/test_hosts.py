"""Links lead where a browser would go, whatever they look like; lists of hosts hold what is below them, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.texts.hosts import Link, link_of, read_hosts


@pytest.mark.parametrize(
    ("content", "link"),
    [
        ("https://evil.example/x?y", Link("evil.example")),
        ("HTTP:\\\\Evil.Example.\\x", Link("evil.example")),
        ("hTtPs:/\tevil.\nexample", Link("evil.example")),
        ("https://bank.example@evil.example:8443/", Link("evil.example", 8443, userinfo=True)),
        ("https://evil.example:443", Link("evil.example")),
        ("http://münchen.example/", Link("xn--mnchen-3ya.example", idn=True)),
        ("http://xn--mnchen-3ya.example", Link("xn--mnchen-3ya.example", idn=True)),
        ("https://ⓔvil。example", Link("evil.example", idn=True)),
        ("http://10.0.0.1/", Link("10.0.0.1")),
        ("http://[::1]:8080/", Link("[::1]", 8080)),
        ("www.evil.example", Link("www.evil.example")),
        ("evil.example/path", Link("evil.example")),
    ],
)
def test_links(content: str, link: Link) -> None:
    assert link_of(content) == link


@pytest.mark.parametrize(
    "content",
    ["tel:+49123", "WIFI:T:WPA;S:net;;", "hello", "4006381333931", "javascript:alert(1)", "me@mail.example", "http://",
     "http://a..b", "http://a b", "http://evil.example:99999/", "http://[::1", "", "\x00"],
)  # fmt: skip
def test_no_links(content: str) -> None:
    assert link_of(content) is None


def test_a_list_holds_what_is_below(tmp_path: Path) -> None:
    """Comments, `*.`, addresses as in hosts(5), and names beyond ASCII are read."""
    path = tmp_path / "hosts.txt"
    path.write_text("# bad ones\nevil.example\n0.0.0.0 worse.example  # a comment\n*.münchen.example\n\n")
    hosts = read_hosts(str(path), StorageConfig())
    assert "evil.example" in hosts and "a.b.evil.example" in hosts and "worse.example" in hosts
    assert "x.xn--mnchen-3ya.example" in hosts and "notevil.example" not in hosts and "example" not in hosts


def test_what_is_no_host_stops_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "hosts.txt"
    path.write_text("evil.example\nhttps://evil.example/\n")
    with pytest.raises(ConfigError, match=r"hosts\.txt, line 2: 'https://evil.example/' is no host"):
        read_hosts(str(path), StorageConfig())
