"""The address and the token: from the call, else the environment, else the file that `bimt login` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .errors import NotLoggedIn
from .http import is_this_machine


@dataclass(frozen=True)
class Login:
    """An address and a token."""

    url: str
    token: str


def find_login(url: str | None = None, token: str | None = None, *, environ: Mapping[str, str] | None = None) -> Login:
    """The address and the token. Raises NotLoggedIn with the three ways to give them.

    A token from the file is only sent to the address that is stored with it.
    """
    environ = os.environ if environ is None else environ
    url = url or environ.get("BIMT_URL") or None
    token = token or environ.get("BIMT_TOKEN") or None
    saved = read_login(environ)
    if url is None and saved is not None:
        url = saved.url
    if url is None:
        raise NotLoggedIn("Where is the service? Run `bimt login ADDRESS`, set BIMT_URL, or give Client(url, token).")
    url = whole_address(url)
    if token is None and saved is not None and saved.url == url:
        token = saved.token
    if token is None:
        raise NotLoggedIn(f"No token for {url}: run `bimt login {url}`, set BIMT_TOKEN, or give Client(url, token).")
    return Login(url, token.strip())


def whole_address(text: str) -> str:
    """The address as scheme, host and port. Without a scheme it is https, on this machine http."""
    text = text.strip()
    if "://" not in text:
        text = f"http://{text}" if is_this_machine(f"http://{text}") else f"https://{text}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotLoggedIn(f"`{text}` is no address; it should look like http://127.0.0.1:8080.")
    return text.rstrip("/").removesuffix("/api/v1")


def login_file(environ: Mapping[str, str] | None = None) -> Path:
    """Where `bimt login` writes: BIMT_LOGIN_FILE, else bimt/login.json in the user's folder of settings."""
    environ = os.environ if environ is None else environ
    if named := environ.get("BIMT_LOGIN_FILE"):
        return Path(named)
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".config")
    return Path(base) / "bimt" / "login.json"


def read_login(environ: Mapping[str, str] | None = None) -> Login | None:
    """The stored login; None where there is none, or a damaged file."""
    try:
        saved = json.loads(login_file(environ).read_text(encoding="utf-8"))
        return Login(str(saved["url"]), str(saved["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_login(login: Login, environ: Mapping[str, str] | None = None) -> Path:
    """Store the login; the file never exists with more rights than 0600."""
    path = login_file(environ)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump({"url": login.url, "token": login.token}, file)
    return fresh.replace(path)


def forget_login(environ: Mapping[str, str] | None = None) -> bool:
    """Delete the stored login; True where there was one."""
    path = login_file(environ)
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed
