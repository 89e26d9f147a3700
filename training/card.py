"""The model card: what a network is, what it learnt from, and every figure of its evaluation."""

from collections.abc import Mapping
from typing import Any

from hilum.network import LABELS


def render(manifest: Mapping[str, Any]) -> str:
    """Return a network's model card, Markdown, of its manifest."""
    recipe, metrics = manifest["recipe"], manifest["metrics"]
    parts = [
        f"# Model card: {manifest['version']}",
        _INTENT,
        "## Network\n\n" + _network(manifest),
        "## Training\n\n" + _training(recipe),
        "## Data\n\n" + _data(manifest["data"]),
        "## Figures\n\n" + _FIGURES + "\n\n" + _summary(metrics),
        *(f"### {name}\n\n{_slice(figures)}" for name, figures in metrics.items()),
        "## Limits\n\n" + _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


_INTENT = """\
**For research only. Not a medical device; not for diagnosis, triage or any decision about a patient.**

It sorts frontal chest radiographs of people of 16 or more into Normal, Pneumonia, COVID-19 and Other (any
other finding). It is there so that the road from modality to PACS runs with real answers, and as the
first champion that later networks are measured against."""

_FIGURES = """\
Measured on test patients that neither training nor any choice had seen. The answer is the likeliest of all
four labels, also where a slice has fewer; macro figures are means over the labels present; *commonest* is
the accuracy of always answering the slice's commonest label; the interval is Wilson's, 95 %.

**Read the pooled figure with care.** In public collections the source of a radiograph tells much of its
class: every COVID-19 image here comes from two sources, nearly all others from a third. The honest slices
keep the source fixed: NIH alone, and ieee8023 alone, COVID-19 against pneumonia."""

_LIMITS = """\
- NIH labels were text-mined from reports and are noisy; *Other* is what is left, not one finding.
- Few images, of few hospitals, of the years before 2021. Expect it to be worse elsewhere.
- It learnt phantoms on purpose, so that demonstrations and constancy checks get a stable answer. Being
  right on phantoms says that the chain works, nothing about patients.
- The image's shape is not shown to it; marks, exposure and processing are, and they tell sources apart.
- Age, view and sex are confounded with class in the data and were not balanced."""


def _network(manifest: Mapping[str, Any]) -> str:
    return (
        "ResNet50 with the head Dropout(0.5) - Linear(2048, 512) - ReLU - Dropout(0.3) - Linear(512, 4) "
        f"(`{manifest['architecture']}`). Input: 224 x 224, gray repeated three times, ImageNet's "
        f"normalisation, preprocessing `{manifest['preprocessing']}`. "
        f"Temperature {manifest['temperature']:.3f}, fitted on validation patients. "
        f"Licence: {manifest['licence']}. Created {manifest['created']}."
    )


def _training(recipe: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{stage['epochs']} epochs at {stage['size_px']} px" for stage in recipe["stages"])
    teacher = (
        f" It also learnt to predict the features of a teacher, `{recipe['teacher']}` with ImageNet weights "
        "(Apache-2.0), which is needed in training only."
    )
    return (
        f"From random weights: {stages}, {recipe['images_per_epoch']} images an epoch, classes evenly drawn, "
        f"{recipe['phantom_share']:.0%} of them phantoms. AdamW, label smoothing "
        f"{recipe['label_smoothing']}, mixup {recipe['mixup']}, an average of the weights is kept; of the "
        "last stage's epochs the one with the lowest validation loss."
        f"{'' if recipe['teacher'] == 'nobody' else teacher} "
        "Every number is under `recipe` in the manifest."
    )


def _data(about: Mapping[str, Any]) -> str:
    parts = ("train", "validation", "test")
    lines = ["| images of | train | validation | test |", "|---|---|---|---|"]
    names = sorted({name for part in parts for name in about[part]})
    lines += [f"| {name} | {' | '.join(str(about[part].get(name, 0)) for part in parts)} |" for name in names]
    return f"Split by patient. Digest of images, labels and parts: `{about['digest']}`.\n\n" + "\n".join(
        lines
    )


def _summary(metrics: Mapping[str, Any]) -> str:
    lines = ["| slice | images | accuracy (95 %) | commonest | macro F1 | macro AUROC | log loss | ECE |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, figures in metrics.items():
        low, high = figures["accuracy_95"]
        auroc = "–" if figures["macro_auroc"] is None else f"{figures['macro_auroc']:.3f}"
        lines.append(
            f"| {name} | {figures['images']} | {figures['accuracy']:.3f} ({low:.3f}–{high:.3f}) "
            f"| {figures['commonest']:.3f} | {figures['macro_f1']:.3f} | {auroc} "
            f"| {figures['log_loss']:.3f} | {figures['ece']:.3f} |"
        )
    return "\n".join(lines)


def _slice(figures: Mapping[str, Any]) -> str:
    lines = [f"| truth | recall | AUROC | {' | '.join(f'said {label}' for label in LABELS)} |"]
    lines.append("|---|---|---|" + "---|" * len(LABELS))
    for label, counts in zip(LABELS, figures["confusion"], strict=True):
        if label in figures["recall"]:
            auroc = figures["auroc"].get(label)
            told = "–" if auroc is None else f"{auroc:.3f}"
            counted = " | ".join(str(count) for count in counts)
            lines.append(f"| {label} | {figures['recall'][label]:.3f} | {told} | {counted} |")
    return "\n".join(lines)
