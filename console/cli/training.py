"""Commands about trainings: what they are at, and to begin and stop one."""

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from console.cli.terminal import NotThere, examples, out, require_a_site
from db import audit, training_runs
from db.session import transaction
from db.tables import TrainingRun
from hilum.queue import TRAIN, ring
from hilum.settings import settings

app = typer.Typer()
training = typer.Typer(
    no_args_is_help=True, help="What is learnt here of what people labelled, each night or when you say so."
)
app.add_typer(training, name="training")


@training.command(epilog=examples("hilum training status", "hilum training status --follow"))
def status(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="until the training ends, or Ctrl-C")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Show the last trainings, how far the one that goes on is, and when the next may begin."""
    require_a_site()
    from console.training import follow as watch
    from console.training import rendered

    if as_json:
        print(json.dumps(_seen(), indent=1))  # noqa: T201 - not wrapped and not coloured
    elif follow:
        watch(_seen, out)
    else:
        out.print(rendered(_seen()))


def _seen() -> dict[str, Any]:
    from console.training import view
    from training import night

    ours = settings()
    begins = night.next_night(datetime.now(UTC), ours).begins if ours.training_least_verdicts else None
    with transaction() as session:
        new = night.new_verdicts(session)
        return view(session, new=new, wanted=ours.training_least_verdicts, begins=begins)


@training.command(epilog=examples("hilum training show 7", "hilum training show 7 --json"))
def show(
    run: Annotated[int, typer.Argument(help="its number, as `hilum training status` shows it")],
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Show what the gate said of a training's network: whether it passed, why, and every figure."""
    require_a_site()
    from console.gate import rendered

    with transaction() as session:
        found = session.get(TrainingRun, run)
    if found is None or found.gate is None:
        state = "there is none" if found is None else f"it is {found.state}"
        raise NotThere(f"training {run} was not judged: {state}")
    if as_json:
        print(json.dumps(found.gate, indent=1))  # noqa: T201 - not wrapped and not coloured
        return
    out.print(rendered(found.gate))
    if found.tracking:
        out.print(f"tracked at {found.tracking}", markup=False, highlight=False)


@training.command(epilog=examples("hilum training start", "hilum training start --run 7"))
def start(
    run: Annotated[
        int | None, typer.Option(help="one that was stopped or failed: it goes on; left out: a new one")
    ] = None,
) -> None:
    """Have a training begin now, whatever hour it is and however few verdicts are new.

    It learns from all that people labelled, and what keeps a training of
    the night from beginning keeps this one too. The training worker has
    to run.
    """
    require_a_site()
    from training import night

    with transaction() as session:
        if run is None:
            begun = night.begin_by_hand(session, settings())
        else:
            begun = run if night.go_on(session, run) else None
        if begun is None:
            raise NotThere(_why_not(training_runs.unfinished(session), run))
        audit.note(session, actor=getpass.getuser(), action="training start", detail=f"training {begun}")
    ring(TRAIN, str(begun))
    out.print(f"training {begun} begins: `hilum training status --follow` shows how it goes", highlight=False)


def _why_not(unfinished: Any, run: int | None) -> str:
    if run is not None:
        return f"training {run} neither failed nor was it stopped: there is nothing to go on with"
    return f"training {unfinished.id} is {unfinished.state}: `hilum training stop {unfinished.id}`, or wait"


@training.command(epilog=examples("hilum training stop", "hilum training stop 7"))
def stop(
    run: Annotated[int | None, typer.Argument(help="its number; left out: the one that goes on")] = None,
) -> None:
    """Stop a training; what it has learnt is kept, and `hilum training start --run` goes on with it."""
    require_a_site()
    from training import night

    actor = getpass.getuser()
    with transaction() as session:
        going_on = training_runs.unfinished(session)
        number = run if run is not None else None if going_on is None else going_on.id
        if number is None or not night.stop(session, number, actor):
            raise NotThere("no training goes on" if run is None else f"training {run} does not go on")
        audit.note(session, actor=actor, action="training stop", detail=f"training {number}")
    out.print(
        f"training {number} stops: `hilum training start --run {number}` goes on with it", highlight=False
    )
