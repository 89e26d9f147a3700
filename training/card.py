"""The model card: what a network is, what it learnt from, and every figure of its evaluation.

It is rendered from an artefact's manifest alone, the summary first and the long tables last.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hilum.network import LABELS
from training.data import PARTS, PHANTOM
from training.evaluate import (
    BLIND,
    COVID_OR_PNEUMONIA,
    FLATTERING,
    HONEST,
    IEEE8023,
    NIH,
    NIH_ABNORMAL,
    NIH_CLASSES,
    PHANTOMS,
    POOLED,
    in_order,
)
from training.figures import percent, told

Figures = Mapping[str, Any]


def render(manifest: Mapping[str, Any]) -> str:
    """Return a network's model card, Markdown, of its manifest.

    Of the manifest's own words there may be `notes` (Markdown: how the network was chosen, what was tried),
    `cross_validation` (the figures of all patients, each answered by a network that had not learnt from it),
    and what was measured of it: `strangeness`, `int8`, `engines`, `export`.
    """
    metrics = in_order(manifest["metrics"])
    sections = {
        "In short": _summary(manifest, metrics),
        "What it must not be used for": _NOT_FOR,
        "Shortcuts that it may have learnt": _shortcuts(manifest["data"]["train"]),
        "Why not 95 %": _bullets(why_not(metrics)),
        "How sure it is": _calibration(manifest),
        "What it does not assess": _strange(manifest),
        "Cross-validated": _cross_validated(manifest),
        "Notes": manifest.get("notes", ""),
        "Data": _data(manifest),
        "The network": _network(manifest),
        "How it was measured": _MEASURED,
        "Every slice": _slices(metrics),
        "Operating points": _operating(metrics),
        "Surer answers only": _coverage(metrics),
        "Class by class": _classes(metrics),
        "The recipe": _recipe(manifest["recipe"]),
    }
    told_ = [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join([f"# Model card: {manifest['version']}", _INTENT, *told_]) + "\n"


_INTENT = """\
**For research only. Not a medical device; not for diagnosis, triage or any decision about a patient.**

It sorts frontal chest radiographs into Normal, Pneumonia, COVID-19 and Other (any other finding)."""

_NOT_FOR = """\
- Anything that touches a patient's care: it was never tried in a clinic, and it has no approval anywhere.
- Ruling COVID-19 in or out: a test for the virus does that. It tells a likeness to what it learnt from.
- Children under 16, lateral views, other body parts, images of an image (a photograph of a screen or film).
- Judging one finding: *Other* is whatever the collections called neither normal nor pneumonia.
- Comparing hospitals, devices or people: it is not equally right on all of them, as the slices show."""

_SOURCE = """\
- **The source.** Exposure, processing, marks and cropping tell collections apart, and where classes come from
  different ones a network learns that before it learns lungs. What it learnt from came from:
  {sources}"""

_WITHIN_IEEE8023 = """\
- **Within ieee8023** the collection is one, the hospital and the view are not: it was gathered from
  publications of many hospitals, and of the 134 COVID-19 images of it from which Hilum's own network is made
  83 are AP or supine, of the 134 of pneumonia 48. Who tells the two apart there may tell them by that."""

_SHORTCUTS = """\
- **The view.** AP means a patient in bed, so a sicker one: the view alone says something of the class.
- **Age and sex** go with class as patients were gathered.
- **Tubes, lines and electrodes** are on images of patients whose pneumonia is known and treated.
- The image's outer shape is *not* shown to it: every image is brought to the same square."""

_OF_PHANTOMS = """\
- **Phantoms** are in its training data on purpose, so that demonstrations and constancy checks get a stable
  answer. Being right on phantoms says that the chain works, nothing about patients."""

_MEASURED = """\
On patients that training and calibration had not seen; what was chosen on whom stands in the notes. In
brackets stands the 95 % interval of a bootstrap over patients (1,000 repeats: patients are drawn anew, not
images). The answer is the likeliest one; unless a slice says otherwise, any of the four labels may be
answered, also where a slice has fewer. Macro figures are means over the classes with at least five images in
the slice. AUROC and average precision are of one class against the rest. ECE is the expected calibration
error of the likeliest answer over ten bins; its interval lies rather high, because in fewer different images
the bins are more uneven. A slice of fewer than 20 images or 10 patients, or of one class, gets its counts
only. A threshold chosen on *these images* flatters what it reaches; one chosen on *other patients*
(validation) does not."""

_SORTED = "So many radiographs of patients whom it had not learnt from are sorted right."

_HONEST_LINES = """\
**The honest lines are those that keep the collection fixed** (NIH, ieee8023); the pooled one
(*radiographs*) is easier than it looks."""

_NOT_HONEST = "Such data are often reported with 95 % and more. On these images that could not be honest:"

_OF_COLLECTIONS = (
    "If each class came from a collection of its own, the source's name alone would be right every time; the "
    "more of that a data set has, the higher the pooled figure. Split by image instead of by patient, a "
    "network also meets patients again whom it knows."
)

_OF_PUBLIC_LABELS = (
    "The labels set a bound too: text-mined or taken from captions, with classes that overlap. Whoever "
    "agreed with them in 95 % of cases would have learnt their errors."
)

_SOURCES = {
    "nih-chestxray14": "usage unrestricted. Provided by the NIH Clinical Center, "
    "https://nihcc.app.box.com/v/ChestXray-NIHCC. X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers: "
    "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks, CVPR 2017. Its labels were text-mined "
    "from reports and are noisy.",
    "hannover-covid19": "CC BY 3.0. COVID-19 Image Repository, Institute for Diagnostic and Interventional "
    "Radiology, Hannover Medical School.",
    "ieee8023-covid-chestxray": "mostly CC BY-NC-SA 4.0, so that the network is for research only. J. P. "
    "Cohen, P. Morrison, L. Dao: COVID-19 Image Data Collection, 2020; gathered from publications.",
    "phantom": "drawn by Hilum itself, of no patient.",
}


def _summary(manifest: Mapping[str, Any], metrics: Mapping[str, Figures]) -> str:
    has_honest = any(name in metrics for name in HONEST)
    parts = [f"{_SORTED} {_HONEST_LINES}" if has_honest else _SORTED, _short_table(metrics)]
    if "cross_validation" in manifest:
        found = manifest["cross_validation"]
        parts += [
            f"The same recipe, cross-validated in {found['folds']} folds:",
            _short_table(found["pooled"]),
        ]
    return "\n\n".join(parts)


def _short_table(metrics: Mapping[str, Figures]) -> str:
    names = [name for name in (*HONEST, POOLED, PHANTOMS) if name in metrics]
    headers = ("on", "images", "right (95 %)", "always the commonest", "macro AUROC (95 %)", "ECE")
    lines = [f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"]
    return "\n".join(lines + [_short_row(name, metrics[name]) for name in names])


def _short_row(name: str, of: Figures) -> str:
    if of["too_few"]:
        return f"| {name} | {of['images']} | {of['too_few']} | | | |"
    cells = [percent(of["accuracy"]), f"{100 * of['commonest']:.0f} %", told(of["macro_auroc"])]
    return f"| {name} | {of['images']} | {' | '.join(cells)} | {_ece(of)} |"


def _ece(of: Figures) -> str:
    return f"{of['calibration']['after']['ece']['value']:.3f}"


def why_not(metrics: Mapping[str, Figures]) -> list[str]:
    """Return sentences, with figures, on why a high pooled figure says little; none of a single source."""
    shown = [*_blind(metrics), *_flattered(metrics)]
    if not shown:
        return []
    is_public = any(f"source {source}" in metrics for source in (NIH, IEEE8023))
    return [_NOT_HONEST, *shown, _OF_COLLECTIONS, *([_OF_PUBLIC_LABELS] if is_public else [])]


def _blind(metrics: Mapping[str, Figures]) -> Iterator[str]:
    if BLIND not in metrics or metrics[BLIND]["too_few"]:
        return
    blind = metrics[BLIND]
    yield (
        f"Without a look at the image, by its source's name alone, {percent(blind['accuracy'])} of the "
        f"answers are right; always saying the commonest class gets {100 * blind['commonest']:.0f} %."
    )
    covid, seen = (metrics[name]["classes"].get("COVID-19") for name in (BLIND, POOLED))
    if covid and seen:
        yield (
            f"The source's name alone tells COVID-19 from all else with AUROC {told(covid['auroc'])}. "
            f"Beside that stands the network's pooled AUROC for COVID-19, {told(seen['auroc'])}"
            f"{_within(metrics)}."
        )


def _within(metrics: Mapping[str, Figures]) -> str:
    pair = metrics.get(COVID_OR_PNEUMONIA)
    if pair is None or pair["too_few"]:
        return ""
    return f"; against pneumonia within one source it is {told(pair['macro_auroc'])}"


def _flattered(metrics: Mapping[str, Figures]) -> Iterator[str]:
    pair = metrics.get(FLATTERING)
    if pair is None or pair["too_few"]:
        return
    yield (
        "Normal images of one collection against COVID-19 images of another, as it is often done: this "
        f"very network is right in {percent(pair['accuracy'])}. On the honest slices it is not: "
        + "; ".join(
            f"{name}: {percent(metrics[name]['accuracy'])}" for name in HONEST if _is_told(metrics, name)
        )
        + "."
    )


def _is_told(metrics: Mapping[str, Figures], name: str) -> bool:
    return name in metrics and not metrics[name]["too_few"]


def _bullets(sentences: list[str]) -> str:
    return "\n".join([*sentences[:1], "", *(f"- {sentence}" for sentence in sentences[1:])]).strip()


def _shortcuts(counts: Mapping[str, int]) -> str:
    """Return bullets on what images like those that it learnt from, by "source label", may have taught it."""
    sources = _sources_of_classes(counts)
    parts = {
        _SOURCE.format(sources=sources): sources,
        _WITHIN_IEEE8023: any(name.startswith(IEEE8023) for name in counts),
        _SHORTCUTS: True,
        _OF_PHANTOMS: any(name.startswith(PHANTOM) for name in counts),
    }
    return "\n".join(text for text, is_so in parts.items() if is_so)


def _sources_of_classes(counts: Mapping[str, int]) -> str:
    """Return a sentence for each label: how much of what it learnt from came from where."""
    told_ = []
    for label in LABELS:
        of = {
            name.removesuffix(f" {label}"): count
            for name, count in counts.items()
            if name.endswith(f" {label}")
        }
        of.pop(PHANTOM, None)
        parts = [
            f"{100 * of[name] / sum(of.values()):.0f} % {name}"
            for name in sorted(of, key=of.__getitem__)[::-1]
        ]
        told_ += [f"{label}: {', '.join(parts)}."] if parts else []
    return " ".join(told_)


def _calibration(manifest: Mapping[str, Any]) -> str:
    headers = ("slice", "ECE before", "ECE after", "Brier before", "Brier after", "log loss after")
    lines = [f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"]
    for name in (POOLED, NIH_CLASSES, NIH_ABNORMAL, COVID_OR_PNEUMONIA, PHANTOMS):
        if _is_told(manifest["metrics"], name):
            cells = _before_and_after(manifest["metrics"][name]["calibration"])
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return (
        f"Its logits are divided by a temperature of {manifest['temperature']:.3f}, fitted on validation "
        "patients, so that of the answers given with 70 % about 70 % are right, on patients like those.\n\n"
    ) + "\n".join(lines)


def _before_and_after(calibration: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return cells of a table, – where nothing is known of before the temperature."""
    pairs = [(when, figure) for figure in ("ece", "brier") for when in ("before", "after")]
    return [
        told(calibration[when][figure]) if when in calibration else "–"
        for when, figure in (*pairs, ("after", "log_loss"))
    ]


def _strange(manifest: Mapping[str, Any]) -> str:
    held_out = {name: manifest["metrics"].get(name, {}) for name in (POOLED, PHANTOMS)}
    parts = [
        "What does not look like a frontal chest radiograph to the network is not assessed.",
        *(
            f"That is {of['not_assessed']} of {of['images']} {name} held out."
            for name, of in held_out.items()
            if "not_assessed" in of
        ),
    ]
    measured = manifest.get("strangeness")
    if not measured:
        return " ".join(parts)
    told = (
        "Of images held out, by source, these shares were refused; of strangers made out of some of them, or "
        "drawn, these were caught, by kind: of kinds that what is strange was learnt from, and of others. "
        "Two of the others lie near kinds learnt from: upside down is turned by 180 degrees and mirrored, "
        "cornered a little less than magnified."
    )
    return f"{' '.join(parts)}\n\n{told}\n\n{_listed(measured)}"


def _cross_validated(manifest: Mapping[str, Any]) -> str:
    if "cross_validation" not in manifest:
        return ""
    found = manifest["cross_validation"]
    return (
        f"In {found['folds']} folds: every patient once, answered by a network of the same recipe that had "
        "not learnt from them. More patients than in the one test part, so narrower intervals.\n\n"
        + _slices(in_order(found["pooled"]))
    )


def _data(manifest: Mapping[str, Any]) -> str:
    about = manifest["data"]
    names = sorted({name for part in PARTS for name in about[part]})
    lines = ["| images of | train | validation | test |", "|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(str(about[part].get(name, 0)) for part in PARTS)} |" for name in names]
    sources = [
        f"- **{name}**: {words}" for name, words in _SOURCES.items() if any(n.startswith(name) for n in names)
    ]
    return "\n".join(
        [
            "Split by patient: no patient is in two parts.",
            "",
            *lines,
            "",
            *sources,
            "",
            f"Licence of the network: {manifest['licence']}. Digest of images, labels and parts: "
            f"`{about['digest']}`.",
        ]
    )


def _network(manifest: Mapping[str, Any]) -> str:
    text = (
        f"`{manifest['architecture']}`: the backbone, and the head Dropout(0.5) - Linear(C, 512) - ReLU - "
        "Dropout(0.3) - Linear(512, 4). Input: 224 x 224, gray repeated three times, ImageNet's "
        f"normalisation, preprocessing `{manifest['preprocessing']}`. Created {manifest['created']}."
    )
    measured = {"export": "ONNX export against torch", "engines": "Engines", "int8": "Int8 graph"}
    parts = [f"**{title}**\n\n{_listed(manifest[key])}" for key, title in measured.items() if key in manifest]
    return "\n\n".join([text, *parts])


def _slices(metrics: Mapping[str, Figures]) -> str:
    names = (
        "images",
        "patients",
        "accuracy",
        "commonest",
        "macro F1",
        "macro AUROC",
        "ECE",
        "Brier",
        "log loss",
    )
    lines = [f"| slice | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    return "\n".join(lines + [_row(name, of) for name, of in metrics.items()])


def _row(name: str, of: Figures) -> str:
    begin = f"| {name} | {of['images']} | {of['patients']} |"
    if of["too_few"]:
        return f"{begin} {of['too_few']} | | | | | | |"
    calibration = of["calibration"]["after"]
    shown = [
        of["macro_f1"],
        of["macro_auroc"],
        *(calibration[figure] for figure in ("ece", "brier", "log_loss")),
    ]
    return f"{begin} {told(of['accuracy'])} | {of['commonest']:.3f} | {' | '.join(map(told, shown))} |"


def _operating(metrics: Mapping[str, Figures]) -> str:
    names = [name for name in (POOLED, *HONEST) if _is_told(metrics, name)]
    lines = [
        "| slice | class | aim: specificity | threshold, chosen on | sensitivity | specificity |",
        "|---|---|---|---|---|---|",
    ]
    return (
        "\n".join(lines + [line for name in names for line in _points(name, metrics[name])]) if names else ""
    )


def _points(name: str, of: Figures) -> Iterator[str]:
    for answer in of["judged"]:
        for wanted, point in of["classes"][answer]["operating_points"].items():
            yield (
                f"| {name} | {answer} | {wanted} | {point['threshold']:.3f}, {point['chosen_on']} "
                f"| {told(point['sensitivity'])} | {told(point['specificity'])} |"
            )


def _coverage(metrics: Mapping[str, Figures]) -> str:
    names = [name for name in (POOLED, *HONEST) if _is_told(metrics, name)]
    if not names:
        return ""
    shares = [f"{100 * point['coverage']:.0f} %" for point in metrics[names[0]]["coverage"]]
    lines = [f"| accuracy if it answers the surest | {' | '.join(shares)} |", "|---|" + "---|" * len(shares)]
    for name in names:
        cells = " | ".join(told(point["accuracy"]) for point in metrics[name]["coverage"])
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _classes(metrics: Mapping[str, Figures]) -> str:
    return "\n\n".join(f"### {name}\n\n{_asked(of)}{_confusion(of)}" for name, of in metrics.items())


def _asked(of: Figures) -> str:
    return f"Asked: {of['asked']}.\n\n" if "asked" in of else ""


def _confusion(of: Figures) -> str:
    names = ("precision", "recall", "specificity", "f1", "auroc", "average_precision")
    said = [f"said {answer}" for answer in of["answers"]]
    lines = [
        f"| truth | {' | '.join(said)} | precision | recall | specificity | F1 | AUROC | average precision |"
    ]
    lines.append("|---|" + "---|" * (len(said) + len(names)))
    for answer, row in zip(of["answers"], of["confusion"], strict=True):
        figures = of.get("classes", {}).get(answer)
        cells = [told(figures[name]) for name in names] if figures else [""] * len(names)
        if any(row):
            lines.append(f"| {answer} | {' | '.join(map(str, row))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _recipe(recipe: Mapping[str, Any]) -> str:
    lines = ["| key | value |", "|---|---|"]
    return "\n".join(lines + [f"| {key} | {_plain(value)} |" for key, value in recipe.items()])


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(about: Mapping[str, Any]) -> str:
    """Return what was measured as bullets; a list of alike things as a table below them."""
    tables = {key: value for key, value in about.items() if isinstance(value, list) and value}
    bullets = [f"- {_words(key)}: {_plain(value)}" for key, value in about.items() if key not in tables]
    return "\n\n".join(["\n".join(bullets), *map(_table, tables.values())]).strip()


def _table(rows: list[Mapping[str, Any]]) -> str:
    lines = [f"| {' | '.join(map(_words, rows[0]))} |", "|---" * len(rows[0]) + "|"]
    return "\n".join(lines + [f"| {' | '.join(map(_plain, row.values()))} |" for row in rows])


def _words(key: str) -> str:
    return key.replace("_", " ")
