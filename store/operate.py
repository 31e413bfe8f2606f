"""`python -m store.operate`, deprecated: now `python -m store.admin_cli`. Goes with the next version."""

from __future__ import annotations

import sys

from store.admin_cli import main

if __name__ == "__main__":
    print("`python -m store.operate` is deprecated; use `python -m store.admin_cli`.", file=sys.stderr)
    sys.exit(main(sys.argv[1:]))
