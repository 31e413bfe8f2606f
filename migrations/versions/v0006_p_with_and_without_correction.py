"""A module's effects say p as it was measured and, beside it, corrected for the number of cells.

What was called p was the corrected one; the document of the whole matrix has had both.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

module = sa.table("module", sa.column("run_id"), sa.column("name"), sa.column("body", sa.LargeBinary()))
run_body = sa.table("run_body", sa.column("run_id"), sa.column("name"), sa.column("body", sa.LargeBinary()))
effect = sa.table("effect", sa.column("run_id"), sa.column("module"), sa.column("target"), sa.column("p"))


def upgrade() -> None:
    """Go forward."""
    op.execute("ALTER TABLE effect RENAME COLUMN p TO p_holm")
    op.add_column("effect", sa.Column("p", sa.Double(), nullable=True))
    for run_id, name, body in _modules():
        measured = _measured(run_id, name)
        for target, found in (body.get("effects") or {}).items():
            found["p_holm"], found["p"] = found.get("p"), measured.get(target)
            here = (effect.c.run_id == run_id, effect.c.module == name, effect.c.target == target)
            op.get_bind().execute(sa.update(effect).where(*here).values(p=found["p"]))
        _write(run_id, name, body)


def downgrade() -> None:
    """Go back."""
    for run_id, name, body in _modules():
        for found in (body.get("effects") or {}).values():
            found["p"] = found.pop("p_holm", None)
        _write(run_id, name, body)
    op.drop_column("effect", "p")
    op.execute("ALTER TABLE effect RENAME COLUMN p_holm TO p")


def _modules() -> Iterator[tuple[str, str, dict[str, Any]]]:
    keys = op.get_bind().execute(sa.select(module.c.run_id, module.c.name)).all()
    for run_id, name in keys:
        here = (module.c.run_id == run_id, module.c.name == name)
        yield run_id, name, _read(op.get_bind().scalar(sa.select(module.c.body).where(*here)))


def _measured(run_id: str, name: str) -> dict[str, float]:
    """Target → p as it was measured, out of the whole matrix."""
    query = sa.select(run_body.c.body).where(run_body.c.run_id == run_id, run_body.c.name == "effects")
    effects = _read(op.get_bind().scalar(query))
    try:
        return dict(zip(effects["outputs"], effects["p"][effects["modules"].index(name)], strict=True))
    except (KeyError, ValueError, IndexError):
        return {}  # an evidence without random groups


def _read(body: bytes | None) -> dict[str, Any]:
    return {} if body is None else dict(json.loads(zlib.decompress(body)))


def _write(run_id: str, name: str, body: dict[str, Any]) -> None:
    deflated = zlib.compress(json.dumps(body, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode(), 6)
    here = (module.c.run_id == run_id, module.c.name == name)
    op.get_bind().execute(sa.update(module).where(*here).values(body=deflated))
