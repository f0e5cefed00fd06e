"""Errors as the OpenAI API shapes them."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

INVALID, UNAVAILABLE, LIMITED = "invalid_request_error", "service_unavailable", "rate_limit_error"


class Refusal(Exception):
    """What a client is told instead of an answer; `after` in seconds is sent as Retry-After."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = INVALID,
        *,
        code: str | None = None,
        param: str | None = None,
        after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param, self.after = status, kind, code, param, after

    def response(self) -> Response:
        value: dict[str, Any] = {
            "message": str(self), "type": self.kind, "param": self.param, "code": self.code,
        }  # fmt: skip
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.after is not None:
            headers["Retry-After"] = str(max(1, round(self.after)))
        return JSONResponse({"error": value}, self.status, headers)
