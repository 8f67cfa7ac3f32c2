"""Bearer tokens from the environment of the process: one for changes of the catalogue, one for reads if reads need one."""

from __future__ import annotations

import hmac
import os

from fastapi import Request

from fashion_dml.storage import UserError
from serve.errors import Refusal

WRITE_TOKEN, READ_TOKEN = "FASHION_DML_TOKEN", "FASHION_DML_READ_TOKEN"
LEAST = 16  # characters of a token


class Tokens:
    """Read once, when an ingress replica starts. Raises UserError at a token that is too short to be one."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._write, self._read = (given.get(name, "").encode() for name in (WRITE_TOKEN, READ_TOKEN))
        for name, token in ((WRITE_TOKEN, self._write), (READ_TOKEN, self._read)):
            if 0 < len(token) < LEAST:
                raise UserError(f"{name} has {len(token)} characters; a token needs at least {LEAST}.")

    @property
    def public(self) -> bool:
        """Whether anybody may read, so that caches between may keep what is read."""
        return not self._read

    async def may_read(self, request: Request) -> None:
        """Raises Refusal 401 where reads need a token and the request has neither."""
        if self._read and not self._has(request, self._read) and not self._has(request, self._write):
            raise self._unknown()

    async def may_change(self, request: Request) -> None:
        """Raises Refusal: 403 where no token was set, so that nobody may; 401 for a request without it."""
        if not self._write:
            raise Refusal(403, "changes_off", f"This service takes no changes: it was started without {WRITE_TOKEN}.")
        if not self._has(request, self._write):
            raise self._unknown()

    def known(self, authorization: str) -> bool:
        """Whether a header `Authorization` holds one of the service's tokens."""
        return self._holds(authorization, self._write) or self._holds(authorization, self._read)

    def _has(self, request: Request, token: bytes) -> bool:
        return self._holds(request.headers.get("authorization", ""), token)

    @staticmethod
    def _holds(authorization: str, token: bytes) -> bool:
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(
            given.strip().encode(), token
        )  # in constant time, so that no answer tells how much was right
        return bool(token) and scheme.lower() == "bearer" and same

    @staticmethod
    def _unknown() -> Refusal:
        return Refusal(
            401, "token_needed", "Send the header `Authorization: Bearer TOKEN` with the service's token.",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
