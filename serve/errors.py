"""Refusals: a status, a code for machines, one sentence for people; never a stack trace or a path."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

logger = logging.getLogger("ray.serve")

RETRY_AFTER_S = 2
STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class Refusal(Exception):
    """A request that can't be answered. `limit` is the bound that was crossed, if it is one number or name."""

    def __init__(
        self, status: int, code: str, message: str, *, limit: float | str | None = None, retry_after_s: int = 0,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.code, self.message, self.limit = status, code, message, limit
        self.headers = {**(headers or {}), **({"Retry-After": str(retry_after_s)} if retry_after_s else {})}

    def at(self, place: str) -> Refusal:
        """The same, of one query of a batch: `queries.3`."""
        told = f"{place}: {self.message}" if place else self.message
        return Refusal(self.status, self.code, told, limit=self.limit, headers=self.headers)

    def response(self) -> JSONResponse:
        error = {"code": self.code, "message": self.message} | ({} if self.limit is None else {"limit": self.limit})
        return JSONResponse({"error": error}, self.status, self.headers)


def install(app: FastAPI) -> None:
    """Give every failure of `app` the one shape."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        code = STATUS_CODES.get(error.status_code, "bad_request")
        return Refusal(error.status_code, code, f"{error.detail}; see /docs for what there is.").response()

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, error: ClientDisconnect) -> JSONResponse:
        return Refusal(400, "client_left", "The connection closed before the body had arrived.").response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        logger.exception("unexpected failure of %s %s", request.method, request.url.path, exc_info=error)
        return Refusal(500, "internal", "The service failed on this request; its log says why.").response()
