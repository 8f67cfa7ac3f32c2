"""Decoding off the event loop, a few images at a time: the rest wait, so that many large ones can't use up the memory."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from serve import limits
from serve.errors import RETRY_AFTER_S, Refusal

Given = ParamSpec("Given")
Made = TypeVar("Made")


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(limits.DECODES_AT_ONCE, thread_name_prefix="decode")


async def decoded_before(deadline: float, call: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> Made:
    """`call(*args)` in one of this process's decoding threads; deadline: of time.monotonic(). Raises Refusal, and what it raises."""
    asked = asyncio.get_running_loop().run_in_executor(_threads(), functools.partial(call, *args, **kwargs))
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await asked
    except TimeoutError as error:  # one that still waited is taken out of the queue; one under way ends by itself
        raise Refusal(
            503, "too_slow", "The image wasn't decoded before the deadline: too many came at once.", retry_after_s=RETRY_AFTER_S
        ) from error
