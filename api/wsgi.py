"""What gunicorn serves: `gunicorn --config python:api.serving api.wsgi:app`."""

from __future__ import annotations

import os

from api.app import create_app
from api.logs import log_records
from store.settings import Settings

settings = Settings.from_env(os.environ)
log_records(settings.log_level)
app = create_app(settings)
app.extensions["bimt"].checker.look()  # checks of uploads that the end of another process has cut short
