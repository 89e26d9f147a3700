"""The HTTP server's application: what stands before all routes, the routes, and what errors look like."""

import logging

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from console.web import answers, watch
from console.web.access import Guard
from console.web.headers import Headers
from console.web.pages import login, start
from hilum.errors import HilumError

log = logging.getLogger(__name__)


def create_app() -> FastAPI:
    """The console; it opens nothing before it is asked."""
    app = FastAPI(title="Hilum", docs_url=None, redoc_url=None, openapi_url=None)
    for each in (watch, login, start):
        app.include_router(each.router)
    app.mount("/static", StaticFiles(directory=answers.HERE / "static"))
    app.add_middleware(Guard)
    app.add_middleware(Headers)
    app.exception_handler(StarletteHTTPException)(_refused)
    app.exception_handler(RequestValidationError)(_not_understood)
    app.exception_handler(HilumError)(_in_words)
    app.exception_handler(DBAPIError)(_no_database)
    app.exception_handler(Exception)(_failed)
    return app


def _refused(request: Request, error: HTTPException) -> Response:
    known = {404: "There is nothing here.", 405: "This cannot be done here."}
    answer = answers.refusal(request, error.status_code, known.get(error.status_code, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


def _not_understood(request: Request, error: RequestValidationError) -> Response:
    """What is wrong, and where; never what was sent, which may be a password."""
    faults = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()]
    return answers.refusal(request, 422, "; ".join(faults))


def _in_words(request: Request, error: HilumError) -> Response:
    return answers.refusal(request, 409, str(error))


def _no_database(request: Request, error: DBAPIError) -> Response:
    log.error("the database does not answer: %s", type(error.orig).__name__)
    return answers.refusal(request, 503, "The database does not answer.")


def _failed(request: Request, error: Exception) -> Response:
    """Starlette has it logged as well; the answer tells nothing of our inside."""
    return answers.refusal(request, 500, "Something went wrong here; the log says what.")
