"""The first page after the login."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from console.web import answers
from console.web.access import needs
from db.accounts import Scope

router = APIRouter(include_in_schema=False, dependencies=[needs(Scope.READ)])


@router.get("/")
def start(request: Request) -> Response:
    return answers.page(request, "start")
