"""What gunicorn serves: `gunicorn --no-control-socket -k gthread api.wsgi:app`."""

from __future__ import annotations

import os

from api.app import create_app
from store.settings import Settings

app = create_app(Settings.from_env(os.environ))
app.extensions["bimt"].checker.look()  # checks of uploads that the end of another process has cut short
