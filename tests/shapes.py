"""Types and shapes in the engine's signatures, checked by jaxtyping and beartype in every test.

Of each function the first CHECKED_CALLS calls within a test are checked: what is called a hundred thousand times by a
training or a pruning is called alike, and to check every call takes two thirds of a test's time.
`EVERY_CALL=1 make test` checks them all.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

CHECKED_CALLS = 50

_test = 0  # number of the test that runs


def next_test() -> None:
    """Count anew: another test begins."""
    global _test
    _test += 1


def check_shapes(package: str) -> None:
    """Have the signatures of this package checked, wherever it is imported from now on."""
    import jaxtyping

    jaxtyping.install_import_hook(package, "beartype.beartype")
    if not os.environ.get("EVERY_CALL"):
        # What the hook writes above each function is looked up in the module `jaxtyping` when that function is made.
        jaxtyping.jaxtyped = _first_calls(jaxtyping.jaxtyped)


def _first_calls(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """`jaxtyped` as it is for classes; of functions it checks the first calls in each test."""

    @functools.wraps(jaxtyped)
    def decorate(*arguments: Any, **options: Any) -> Any:
        if arguments:
            return jaxtyped(*arguments, **options)
        return lambda checked: _limited(checked, jaxtyped(**options)(checked))

    return decorate


def _limited(plain: Any, checked: Any) -> Any:
    if not inspect.isfunction(plain):
        return checked
    test, calls = -1, 0

    @functools.wraps(checked)
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal test, calls
        if calls >= CHECKED_CALLS and test == _test:
            return plain(*arguments, **named)
        if test != _test:
            test, calls = _test, 0
        calls += 1
        return checked(*arguments, **named)

    return call
