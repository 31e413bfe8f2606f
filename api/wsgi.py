"""The WSGI app for a server of your own choice; `python -m api` is the service's own way to serve it."""

from __future__ import annotations

import os

from api.app import create_app, request_fields
from store import log
from store.settings import Settings

settings = Settings.from_env(os.environ)
log.set_up(settings.log_level, processors=[request_fields])
app = create_app(settings)
