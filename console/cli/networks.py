"""Commands about networks: to read with one, to train one, and to say how good it is."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from console.cli.terminal import NotThere, err, examples, out, require_a_site
from hilum.errors import SettingsError
from hilum.settings import settings

app = typer.Typer()
data = typer.Typer(no_args_is_help=True, help="Look at what a network is trained on.")
app.add_typer(data, name="data")

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


@app.command(
    epilog=examples(
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
    epilog=examples(
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
        require_a_site()
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
    epilog=examples(
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
        Path | None, typer.Option(file_okay=False, help="an artefact's folder; left out: the one in use here")
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
    from db.networks import in_use
    from hilum.engine import choose_engine
    from hilum.network import load_artefact

    try:
        from training import page, reader, report
    except ModuleNotFoundError as error:
        raise SettingsError(f"evaluation needs {error.name}: pip install 'hilum[torch]'") from error
    for file in (json_file, html_file):
        if file and not file.parent.is_dir():
            raise NotThere(f"there is no folder {file.parent} to write {file.name} to")
    artefact = load_artefact(network or in_use())
    engine = choose_engine(artefact, settings().device, settings().precision)
    if images is None:
        require_a_site()
    labelled = reader.read(images, manifest=manifest, cache=cache)
    made = report.evaluated(engine, labelled, part=part, split_file=split, as_in_card=as_in_card)
    json_file.write_text(made.json(), encoding="utf-8")
    if html_file:
        html_file.write_text(page.rendered(made, engine), encoding="utf-8")
    out.print(report.summary(made), *report.words(made), sep="\n")
    if made.about["differences"]:
        raise typer.Exit(1)


@data.command(
    epilog=examples(
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
        require_a_site()
    collection = reader.collect(data, manifest=manifest, cache=cache)
    title = data.resolve().name if data else "labelled studies"
    page = describe.describe(collection, title, out_dir)
    out.print(f"the page: {escape(str(page))}")


def _require_folder(folder: Path | None, manifest: Path | None, option: str) -> None:
    if manifest and not folder:
        raise typer.BadParameter(
            f"it lists files below a folder: name it by {option}", param_hint="--manifest"
        )


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
