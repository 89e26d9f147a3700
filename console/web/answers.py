"""Pages and errors: as a page for a browser, as JSON for a program."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response
from starlette.templating import Jinja2Templates

HERE = Path(__file__).parent
_templates = Jinja2Templates(HERE / "templates")


def page(request: Request, template: str, /, *, status: int = 200, **values: Any) -> Response:
    """A page of ours; every value is escaped."""
    shown = {"caller": getattr(request.state, "caller", None), **values}
    return _templates.TemplateResponse(request, f"{template}.html", shown, status_code=status)


def wants_page(request: Request) -> bool:
    """Whether a browser asks, for something to be looked at."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")


def refusal(request: Request, status: int, because: str) -> Response:
    """An error in a sentence."""
    if not wants_page(request):
        return JSONResponse({"error": because}, status)
    return page(request, "error", status=status, title=HTTPStatus(status).phrase, because=because)
