"""The `hilum` command."""

import getpass
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

import db.audit
import db.jobs
import db.studies
import db.tables
import db.trouble
from db.session import transaction
from db.tables import StudyState
from hilum.errors import HilumError, Interrupted, SettingsError
from hilum.log import keep_values_out
from hilum.queue import ring
from hilum.settings import CONFIG_VARIABLE, settings

if TYPE_CHECKING:
    from console.scu import Peer

app = typer.Typer(
    name="hilum",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Reads chest radiographs pushed by a PACS and sends its findings back into the same study.\n\n"
    "Begin with [bold]hilum demo[/]; for a PACS of your own: [bold]hilum init[/], "
    "[bold]hilum doctor[/], [bold]hilum up[/].",
)
database = typer.Typer(no_args_is_help=True, help="Look after the database.")
app.add_typer(database, name="database")
labelled = typer.Typer(no_args_is_help=True, help="Look at what a network is trained on.")
app.add_typer(labelled, name="data")

Study = Annotated[str, typer.Argument(help="Study Instance UID, accession number or patient id")]
Labelled = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="folder of images; left out: what people labelled here"),
]
Manifest = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="CSV of the files; left out: manifest.csv there, if any"),
]
Cache = Annotated[
    Path | None, typer.Option(file_okay=False, help="of decoded images; left out: beside the images")
]

_ASKING = ("status", "studies", "show", "replay", "cancel")
_INTERRUPTED = 128 + signal.SIGINT  # as a shell tells it
_WIDE = 160  # columns of a pipe or file: nobody's window is too narrow there
out = Console(width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True)


class NotThere(HilumError):
    """The person at the terminal must name something else."""


def main() -> None:
    """Run the command; what an operator can mend is said in words, without a traceback."""
    keep_values_out()
    try:
        app()
    except SettingsError as error:
        _fail(str(error), 2)
    except Interrupted as error:
        _fail(str(error), _INTERRUPTED)
    except HilumError as error:
        _fail("\n".join((str(error), *error.in_detail)), 1)
    except DBAPIError as error:
        _fail(f"the database does not answer: {_first_line(error)}; `hilum doctor` says what to do", 1)
    except OSError as error:
        _fail(" ".join(str(part) for part in (error.filename, error.strerror or error) if part), 1)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


@app.callback()
def _before(context: typer.Context) -> None:
    """What only asks makes nothing: with SQLite, to look into a folder without a Hilum would make one."""
    if context.invoked_subcommand in _ASKING:
        _require_a_site()


def _require_a_site() -> None:
    ours = settings()
    if not ours.database_url and not ours.data_dir.is_dir():
        raise SettingsError(
            f"there is no Hilum in {ours.data_dir.absolute()}: go where its hilum.toml is, or set "
            f"{CONFIG_VARIABLE} to it; if this is the place, `hilum up` makes one"
        )


def _require_folder(folder: Path | None, manifest: Path | None, option: str) -> None:
    if manifest and not folder:
        raise typer.BadParameter(
            f"it lists files below a folder: name it by {option}", param_hint="--manifest"
        )


def _examples(*lines: str) -> str:
    return "\n\n".join(["[dim]Examples[/]", *(f"[cyan]{escape(line)}[/]" for line in lines)])


@app.command(epilog=_examples("hilum up", "HILUM_LISTENER_PORT=11113 HILUM_DATA_DIR=/srv/hilum hilum up"))
def up() -> None:
    """Run everything on this machine until Ctrl-C: broker, listener, workers, clock.

    What dies is started again. The log has the lines of all, each after
    its process's name. SIGHUP has the settings read anew.
    """
    from console.up import up

    up(settings(), sys.stdout)


@app.command()
def listener() -> None:
    """Run one listener alone: the door where a PACS pushes its images (C-STORE, C-ECHO)."""
    settings()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "dicom_listener"])  # noqa: S606 - our own program


@app.command(
    epilog=_examples(
        "hilum send ~/studies",
        "hilum send ~/studies image.dcm --to pacs.example:104 --called PACS --calling ROOM1",
    )
)
def send(
    places: Annotated[list[Path], typer.Argument(exists=True, help="files and folders")],
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="whom; left out: our own listener")] = "",
    called: Annotated[str, typer.Option(help="AE title called; left out: ours")] = "",
    calling: Annotated[str, typer.Option(help="AE title we call by")] = "HILUM-SEND",
) -> None:
    """Send DICOM files, and JPEG or PNG radiographs wrapped as DX, by C-STORE.

    Folders are searched to the bottom; what is neither is passed over.
    The exit status is 1 when a file did not arrive.
    """
    from console.scu import Rejected
    from console.sending import arrived, failures, send_places

    try:
        outcome = send_places(places, _peer(to, called, calling), out)
    except Rejected as error:
        raise NotThere(f"{error} --called and --calling give other AE titles") from error
    if outcome.failed:
        err.print(failures(outcome.failed))
    out.print(arrived(outcome), highlight=False)
    if outcome.failed or not outcome.sent:
        raise typer.Exit(1)


@app.command(
    epilog=_examples(
        "hilum predict image.dcm",
        "hilum predict *.dcm --json > findings.json",
        "hilum predict image.png --engine onnxruntime --heat-map heat.png",
        "HILUM_PRECISION=int8 hilum predict image.dcm",
    )
)
def predict(
    files: Annotated[list[Path], typer.Argument(help="DICOM files, and JPEG or PNG radiographs")],
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    network: Annotated[
        Path | None, typer.Option(help="folder of a network's artefact; left out: the one in use here")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="openvino, onnxruntime or torch; left out: as `device` is set")
    ] = "",
    heat_map: Annotated[
        Path | None, typer.Option(help="a picture to write: where the network looked, in a single file")
    ] = None,
) -> None:
    """Read chest radiographs here and now. For research only: not a medical device.

    Nothing is kept or sent, and no other process of Hilum need run. The
    exit status is 1 when a file could not be read; an image that is not
    assessed is no failure.
    """
    from console import predict
    from worker.decoder import Decoder
    from worker.heat_map import with_heat

    if heat_map:
        _check_heat_map(heat_map, files)
    reader = predict.engine_for(network, engine)
    answers = []
    ours = settings()
    with Decoder(memory_mb=ours.decode_memory_mb, timeout_s=ours.decode_timeout_s) as decoder:
        for file in files:
            said = predict.answer(file, reader, lambda *places: decoder.prepare(*places).not_assessed_because)
            answers.append(said.for_programs())
            if not as_json:
                out.print(predict.rendered(said), highlight=False, soft_wrap=True)
            if heat_map and said.label is None:
                err.print(f"{escape(str(file))} was not read, so there is no heat map of it", soft_wrap=True)
            elif heat_map:
                with_heat(*predict.heat_of(said, reader.artefact)).save(heat_map)
    if as_json:
        print(json.dumps(predict.about(reader) | {"images": answers}, indent=1))  # noqa: T201 - for programs
    else:
        out.print(f"[dim]{escape(predict.by(reader))}[/]", highlight=False)
    if any(said["wrong"] for said in answers):
        raise typer.Exit(1)


@app.command(
    epilog=_examples("hilum demo", "hilum demo --studies ~/radiographs", "hilum demo --count 48 --once")
)
def demo(
    studies: Annotated[
        list[Path], typer.Option(exists=True, help="DICOM files, or JPEG or PNG radiographs, to send")
    ] = [],  # noqa: B006 - typer reads the default and hands out a copy
    count: Annotated[int, typer.Option(min=1, help="how many phantom radiographs to send")] = 12,
    keep_serving: Annotated[
        bool | None,
        typer.Option("--keep-serving/--once", help="go on until Ctrl-C afterwards; default: in a terminal"),
    ] = None,
) -> None:
    """Show the whole way on this machine: send, read, report, and find the results in a PACS.

    Everything runs from one folder (hilum-data) on embedded defaults, with
    a demo PACS. Without studies of yours, phantom radiographs are sent.
    """
    from console.demo import demo

    in_a_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    serves = in_a_terminal if keep_serving is None else keep_serving
    if not demo(studies, count=count, keep_serving=serves, console=out):
        raise typer.Exit(1)


@app.command(epilog=_examples("hilum status", "hilum status --json | jq .studies"))
def status(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Show how things are going: studies, work, workers, destinations.

    A worker that does not answer is dead, stuck or slow: nothing is known
    of it, and it is not listed.
    """
    from console.overview import overview, rendered

    view = overview(settings())
    if as_json:
        print(json.dumps(view, indent=1))  # noqa: T201 - not wrapped and not coloured
    else:
        out.print(rendered(view))


@app.command(
    epilog=_examples("hilum studies", "hilum studies --failed", "hilum studies --state received --most 200")
)
def studies(
    state: Annotated[StudyState | None, typer.Option(help="only those that have come so far")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="those with work that failed, and why")] = False,
    flagged: Annotated[
        bool, typer.Option("--flagged", help="those with an object whose UID came again for another")
    ] = False,
    most: Annotated[int, typer.Option(min=1, help="how many")] = 50,
) -> None:
    """List the studies that were received last, or those that wait for a person."""
    from console import record

    if (state is not None) + failed + flagged > 1:
        raise typer.BadParameter("one at a time", param_hint="--state, --failed, --flagged")
    with transaction() as session:
        if failed:
            table = record.failed_table(db.trouble.failed(session, most=most))
        elif flagged:
            table = record.flagged_table(db.trouble.variants(session, most=most))
        else:
            table = record.studies_table(db.studies.latest(session, most=most, state=state))
    out.print(table if table.row_count else "no studies")


@app.command(epilog=_examples("hilum show 2.25.1234", "hilum show A4711"))
def show(study: Study) -> None:
    """Show all about a study: images, findings, reports, deliveries, work and errors."""
    from console.record import study_report

    with transaction() as session:
        told = [study_report(session, found) for found in _found(session, study)]
    for each in told:  # after the transaction: a pager may hold this up, and on SQLite all others with it
        out.print(each)


@app.command(epilog=_examples("hilum replay A4711", "hilum replay A4711 A4712", "hilum replay --failed"))
def replay(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="Study Instance UID, accession number or patient id"),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="all studies that `hilum studies --failed` lists")
    ] = False,
) -> None:
    """Do studies' failed, quarantined or cancelled work again, once its cause is mended."""
    if bool(studies) == failed:
        raise typer.BadParameter("name studies, or say --failed", param_hint="STUDY")
    with transaction() as session:
        study_uids = (
            db.trouble.failed_studies(session) if failed else [_one(session, text) for text in studies or ()]
        )
    for study_uid in study_uids:
        out.print(f"{study_uid}: to be done again: {_replayed(study_uid) or 'nothing had failed'}")
    if not study_uids:
        out.print("nothing has failed")


@app.command(epilog=_examples("hilum cancel A4711"))
def cancel(study: Study) -> None:
    """Stop a study's unfinished work; `hilum replay` takes it up again."""
    with transaction() as session:
        study_uid = _one(session, study)
        count = db.jobs.cancel(session, study_uid)
        db.audit.note(
            session, actor=getpass.getuser(), action="cancel", study_uid=study_uid, detail=f"{count} jobs"
        )
    out.print(f"cancelled: {count} {'piece' if count == 1 else 'pieces'} of work")


@app.command(epilog=_examples("hilum doctor", "hilum doctor --json"))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Look for what is wrong on this machine, and say what to do about it.

    Configuration, database, broker, file store, decoders, network,
    listener, and each destination by C-ECHO. The exit status is 1 when
    something is wrong.
    """
    from console.doctor import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            mark = "[red]✗" if check.remedy else "[green]✓"
            out.print(f"{mark}[/] [bold]{escape(check.name)}[/]: {escape(check.found)}", highlight=False)
            if check.remedy:
                out.print(f"  [yellow]→ {escape(check.remedy)}[/]", highlight=False)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=1))  # noqa: T201 - for programs
    if any(check.remedy for check in checks):
        raise typer.Exit(1)


@app.command(epilog=_examples("hilum init", "hilum init /etc/hilum/hilum.toml", "hilum init - | less"))
def init(
    file: Annotated[Path, typer.Argument(help="what to write; -: the terminal")] = Path("hilum.toml"),
    force: Annotated[bool, typer.Option("--force", help="replace the file when it is there")] = False,
) -> None:
    """Write a hilum.toml with every setting, its meaning, unit and default, all commented out.

    `-` prints it instead.
    """
    from console.configuration import commented

    if str(file) == "-":
        print(commented(), end="")  # noqa: T201 - not wrapped and not coloured
        return
    if file.exists() and not force:
        raise SettingsError(
            f"{file} is there already: `hilum init -` prints every setting, --force replaces the file"
        )
    file.write_text(commented())
    out.print(f"{escape(str(file))}: name your senders and destinations in it, then [bold]hilum doctor[/]")


@app.command(
    epilog=_examples(
        "hilum train hilum --data radiographs --out run1",
        "hilum train ours.toml --data radiographs --manifest radiographs/manifest.csv --out run2",
        "hilum train hilum --data radiographs --out folds --folds 5",
        "torchrun --nproc-per-node 4 -m console.cli train ours.toml --data radiographs --out run3",
    )
)
def train(
    recipe: Annotated[str, typer.Argument(help="a TOML file, or the name of a recipe that comes with Hilum")],
    out_dir: Annotated[Path, typer.Option("--out", help="folder of the artefact, the split and checkpoints")],
    data: Labelled = None,
    manifest: Manifest = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="cross-validate over patients, in so many parts; left out: train"),
    ] = None,
    cross_validation: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="what --folds wrote: goes into the network's card"),
    ] = None,
    cache: Cache = None,
) -> None:
    """Train a network by a recipe and evaluate it on patients it has not seen.

    Ctrl-C keeps all that was learnt; the same command goes on from there.
    With --folds no network is made: the recipe itself is evaluated.
    Processes that torchrun starts share each step's batches out: the
    recipe's batches_per_step has to be a multiple of their number.
    """
    _require_folder(data, manifest, "--data")
    if folds and cross_validation:
        raise typer.BadParameter("one at a time", param_hint="--folds, --cross-validation")
    try:
        from training.folds import cross_validate
        from training.recipe import find, read
        from training.train import train
    except ModuleNotFoundError as error:
        raise SettingsError(f"training needs {error.name}: pip install 'hilum[torch]'") from error
    if data is None and read(find(recipe)).needs_radiographs:
        _require_a_site()
    if folds:
        made = cross_validate(find(recipe), out_dir, folds, images=data, manifest=manifest, cache=cache)
        out.print(f"the figures: {escape(str(made))}")
    else:
        made = train(
            find(recipe),
            out_dir,
            images=data,
            manifest=manifest,
            cross_validation=cross_validation,
            cache=cache,
        )
        out.print(f"the network: {escape(str(made))}")


@app.command(
    epilog=_examples(
        "hilum evaluate --images radiographs --json figures.json --html figures.html",
        "hilum evaluate --network run/artefact --images xrays --manifest labels.csv --json figures.json",
    )
)
def evaluate(
    json_file: Annotated[Path, typer.Option("--json", dir_okay=False, help="the figures, for programs")],
    images: Labelled = None,
    manifest: Manifest = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", dir_okay=False, help="a page to look at")
    ] = None,
    network: Annotated[
        Path | None, typer.Option(file_okay=False, help="an artefact's folder; left out: the shipped one")
    ] = None,
    part: Annotated[
        Literal["test", "all"], typer.Option(help="all: also patients it learnt from, which flatters it")
    ] = "test",
    split: Annotated[
        Path | None, typer.Option(exists=True, help="split.csv of a training: its test part is taken")
    ] = None,
    cache: Cache = None,
    as_in_card: Annotated[
        bool, typer.Option("--as-in-card", help="compare with the network's card; status 1 if not the same")
    ] = False,
) -> None:
    """Say how good a network is, on labelled images of patients it has not learnt from.

    Every figure comes with its 95 % interval, for all images and for each
    source, view, sex and age. Read with the pooled ones what the source
    alone would get.
    """
    _require_folder(images, manifest, "--images")
    from hilum.engine import choose_engine
    from hilum.network import load_artefact, shipped

    try:
        from training import page, reader, report
    except ModuleNotFoundError as error:
        raise SettingsError(f"evaluation needs {error.name}: pip install 'hilum[torch]'") from error
    for file in (json_file, html_file):
        if file and not file.parent.is_dir():
            raise NotThere(f"there is no folder {file.parent} to write {file.name} to")
    artefact = load_artefact(network or shipped())
    engine = choose_engine(artefact, settings().device, settings().precision)
    if images is None:
        _require_a_site()
    labelled = reader.read(images, manifest=manifest, cache=cache)
    made = report.evaluated(engine, labelled, part=part, split_file=split, as_in_card=as_in_card)
    json_file.write_text(made.json(), encoding="utf-8")
    if html_file:
        html_file.write_text(page.rendered(made, engine), encoding="utf-8")
    out.print(report.summary(made), *report.words(made), sep="\n")
    if made.about["differences"]:
        raise typer.Exit(1)


@labelled.command(
    epilog=_examples(
        "hilum data describe --data radiographs --out page",
        "hilum data describe --data radiographs --manifest labels.csv --out page",
        "hilum data describe --out page",
    )
)
def describe(
    out_dir: Annotated[Path, typer.Option("--out", file_okay=False, help="folder of the page, index.html")],
    data: Labelled = None,
    manifest: Manifest = None,
    cache: Cache = None,
) -> None:
    """Show what there is to train on, and which shortcuts a network could take.

    Counts, ages, gray values, sample sheets, copies, and how well source
    and class can be guessed without looking at the lungs: a page to open
    in a browser. It shows patients' images and names of files, and no
    patient's id.
    """
    _require_folder(data, manifest, "--data")
    try:
        from training import describe, reader
    except ModuleNotFoundError as error:
        raise SettingsError(f"describing data needs {error.name}: pip install 'hilum[torch]'") from error
    if data is None:
        _require_a_site()
    collection = reader.collect(data, manifest=manifest, cache=cache)
    title = data.resolve().name if data else "labelled studies"
    page = describe.describe(collection, title, out_dir)
    out.print(f"the page: {escape(str(page))}")


@database.command()
def upgrade() -> None:
    """Bring the database's tables to this version of Hilum; nothing happens when they are."""
    from db import schema

    schema.upgrade(settings().database)
    out.print("the database is up to date")


def _replayed(study_uid: str) -> str:
    """The kinds of work of a study that are to be done again, told to the workers and the audit."""
    with transaction() as session:
        bells = db.jobs.replay(session, study_uid)
        detail = ", ".join(kind for kind, _, _ in bells)
        db.audit.note(session, actor=getpass.getuser(), action="replay", study_uid=study_uid, detail=detail)
    for kind, subject, urgent in bells:
        ring(kind, subject, urgent=urgent)
    return detail


def _found(session: Session, text: str) -> list[db.tables.Study]:
    found = db.studies.find(session, text)
    if not found:
        raise NotThere(f"no study has the Study Instance UID, accession number or patient id {text!r}")
    return found


def _one(session: Session, text: str) -> str:
    found = _found(session, text)
    if len(found) > 1:
        uids = "\n".join(study.study_uid for study in found)
        raise NotThere(f"{text!r} names {len(found)} studies; give one Study Instance UID:\n{uids}")
    return found[0].study_uid


def _check_heat_map(heat_map: Path, files: list[Path]) -> None:
    if len(files) > 1:
        wrong = "a heat map is of one file"
    elif heat_map.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        wrong = f"{heat_map} ends neither in .png nor in .jpg"
    elif heat_map.resolve() == files[0].resolve():
        wrong = "it would replace what it is of: name another file"
    else:
        return
    raise typer.BadParameter(wrong, param_hint="--heat-map")


def _peer(to: str, called: str, calling: str) -> "Peer":
    from console.scu import Peer

    host, _, port = to.rpartition(":")
    if to and not (host and port.isdigit()):
        raise typer.BadParameter(f"{to!r} is not HOST:PORT", param_hint="--to")
    if not to:
        host, port = _own_address()
    return Peer(host, int(port), called or settings().listener_ae_title, calling)


def _own_address() -> tuple[str, str]:
    host = settings().listener_host
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host, str(settings().listener_port)  # noqa: S104


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]


def _fail(message: str, status: int) -> NoReturn:
    err.print(f"[bold red]hilum:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
