"""Commands about what is learnt here, and what must be watched for it."""

import json
from typing import Annotated

import typer

import db.alerts
from console.cli.terminal import examples, out, require_a_site
from db.session import transaction

app = typer.Typer()


@app.command(epilog=examples("hilum alerts", "hilum alerts --over", "hilum alerts --json"))
def alerts(
    over: Annotated[bool, typer.Option("--over", help="those that are over, too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """List what a person should look at: drift, constancy, trainings that did not start, and the like."""
    require_a_site()
    from console.alerts import rendered, told

    with transaction() as session:
        found = db.alerts.all(session) if over else db.alerts.open(session)
    if as_json:
        print(json.dumps(told(found), indent=1))  # noqa: T201 - not wrapped and not coloured
    else:
        out.print(rendered(found))
