"""Which addresses users may have called: public ones, and networks that are permitted; whatever disguise they wear."""

from __future__ import annotations

import pytest

from store.url_policy import Forbidden, Target, networks, permit, target_of

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
    "100.100.100.200", "192.0.0.192", "198.18.0.1", "192.0.2.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "168.63.129.16", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
    "2001:0:7f00:1::", "not a number",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]


@pytest.mark.parametrize("number", PRIVATE)
def test_what_is_not_public_is_not_called(number):
    with pytest.raises(Forbidden, match="no public address"):
        permit(Target("https", "example.org", 443, "/"), number, ())


@pytest.mark.parametrize("number", PUBLIC)
def test_public_addresses_are_called_by_https(number):
    permit(Target("https", "example.org", 443, "/"), number, ())
    with pytest.raises(Forbidden, match="https only"):
        permit(Target("http", "example.org", 80, "/"), number, networks("10.0.0.0/8"))


def test_a_permitted_network_is_called_by_http_too_and_its_neighbour_is_not():
    here = networks("10.1.0.0/16, fd00::/8")
    permit(Target("http", "chat", 80, "/"), "10.1.2.3", here)
    permit(Target("http", "chat", 80, "/"), "::ffff:10.1.2.3", here)
    permit(Target("https", "chat", 443, "/"), "fd00::5", here)
    with pytest.raises(Forbidden):
        permit(Target("https", "chat", 443, "/"), "10.2.0.1", here)
    assert networks("") == ()
    with pytest.raises(ValueError):
        networks("10.0.0.1/8")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.org/", "https://"), ("ftp://example.org/", "https://"), ("//example.org/", "https://"),
        ("file:///etc/passwd", "https://"), ("https://", "name a host"), ("https:///x", "name a host"),
        ("https://ada:secret@example.org/", "password"), ("https://example.org@evil/", "password"),
        ("https://example.org/#part", "#"), ("https://example.org/a b", "ASCII"), 
        ("https://ex\u00e4mple.org/", "ASCII"),
        ("https://example.org\\@evil/", "ASCII"), ("https://example.org/\r\nX: 1", "ASCII"),
        ("https://example.org:0/", "port"), ("https://example.org:99999/", "URL"), ("https://[::1/", "URL"),
        ("https://exa$mple.org/", "name a host"), ("https://127.0.0.1/", "no public"), ("https://[::1]/", "no public"),
        ("https://169.254.169.254/latest/meta-data/", "no public"), ("", "ASCII"),
    ],
)  # fmt: skip
def test_what_is_no_address_to_call_is_refused_with_a_reason(url, said):
    with pytest.raises(Forbidden, match=said):
        target_of(url, ())


def test_a_url_is_taken_apart():
    assert target_of("https://hooks.example.org", ()) == Target("https", "hooks.example.org", 443, "/")
    there = target_of("https://hooks.example.org:8443/a/b?c=d", ())
    assert (there.path, there.authority) == ("/a/b?c=d", "hooks.example.org:8443")
    here = target_of("http://[fd00::5]:80/x", networks("fd00::/8"))
    assert (here.host, here.authority) == ("fd00::5", "[fd00::5]")
