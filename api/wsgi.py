"""What gunicorn serves: `gunicorn --no-control-socket -k gthread api.wsgi:app`."""

from __future__ import annotations

import os

from api.app import create_app
from store.settings import Settings

app = create_app(Settings.from_env(os.environ))
