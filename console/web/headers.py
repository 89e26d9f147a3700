"""What every answer tells the browser: to run nothing but our own scripts, in no frame, and keep nothing."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.web.access import is_secure

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_FOR_GOOD = {"strict-transport-security": "max-age=31536000"}
_KEPT_AN_HOUR = {"cache-control": "max-age=3600"}


class Headers:
    """Adds them to every answer, also to refusals and errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and give the answer its headers."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_headers(scope["path"])]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


def _headers(path: str) -> list[tuple[bytes, bytes]]:
    said = HEADERS | (_FOR_GOOD if is_secure() else {})
    said |= _KEPT_AN_HOUR if path.startswith("/static/") else {}
    return [(name.encode(), value.encode()) for name, value in said.items()]
