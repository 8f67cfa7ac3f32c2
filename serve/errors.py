"""Refusals: a status, a code for machines, one sentence for people; never a stack trace or a path."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serve import record

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
        record.refused(self.code)
        more = {"limit": self.limit, "request_id": record.request_id()}
        error = {"code": self.code, "message": self.message} | {k: v for k, v in more.items() if v is not None}
        return JSONResponse({"error": error}, self.status, self.headers)


def install(app: FastAPI) -> None:
    """Give every refusal of `app` the one shape; serve.access does so for what fails unexpectedly."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        code = STATUS_CODES.get(error.status_code, "bad_request")
        headers = dict(error.headers or {})  # Allow, of a 405
        return Refusal(error.status_code, code, f"{error.detail}; see /docs for what there is.", headers=headers).response()

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, error: ClientDisconnect) -> JSONResponse:
        return Refusal(400, "client_left", "The connection closed before the body had arrived.").response()
