"""Work that several requests wait for, begun by one of them: it must not end with that one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

Made = TypeVar("Made")


def detached(work: Coroutine[Any, Any, Made]) -> asyncio.Task[Made]:
    """A task in a context of its own. In that of a request, Serve would cancel its calls to other deployments when the client leaves."""
    return asyncio.create_task(work, context=Context())
