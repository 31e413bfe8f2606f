"""`python -m store.first_token`, deprecated: now `python -m store.admin_cli bootstrap-token`."""

from __future__ import annotations

import sys

from store.admin_cli import main

if __name__ == "__main__":
    print(
        "`python -m store.first_token` is deprecated; use `python -m store.admin_cli bootstrap-token`.", file=sys.stderr
    )
    sys.exit(main(["bootstrap-token", *sys.argv[1:]]))
