"""What a network knows, and so what is strange to it: fitted to a network that stays as it is."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from hilum.engine import Engine, choose_engine
from hilum.network import STRANGENESS, Artefact, add_file, pooled
from hilum.strangeness import LIMIT, Strangeness, Values
from training.data import PHANTOM, Images
from training.strangers import KINDS, UNSEEN, strangers, varied
from training.unseen import remembering

PooledOf = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From images (N, 224, 224) uint8 to a network's pooled features (N, C)."""

_ENOUGH = 2000  # images trained on that tell what is known, and as many strangers
_FREEDOM = 0.03  # inverse strength of the logistic regression's penalty: chosen on validation patients
_AXES = 16
_READ = 0.99  # share of held-out radiographs, and of phantoms, that are not refused
_HARDLY_EVER = 0.995  # of them lie within the reach of each sign
_JUDGED = 60  # test images that strangers of each kind are made of


def fit(training: Images, validation: Images, pooled_of: PooledOf) -> Strangeness:
    """Return what is strange to a network: 1 % of validation radiographs, or of phantoms, and no more.

    The same images give the same result. `pooled_of` reads images with the network, also strangers made of
    training images.
    """
    chosen = np.random.default_rng(0).permutation(len(training))[:_ENOUGH]
    pixels = np.asarray(training.pixels[np.sort(chosen)])
    known = np.concatenate([pooled_of(pixels), pooled_of(varied(pixels[::2]))])
    strange = pooled_of(strangers(pixels, KINDS))
    axes, variances = _axes(known)
    signs = Strangeness(
        mean=known.mean(axis=0),
        direction=_direction(known, strange),
        axes=axes,
        variances=variances,
        middles=np.zeros(2, np.float32),
        reaches=np.ones(2, np.float32),
        quantiles=np.zeros(101, np.float32),
    )
    return _calibrated(signs, pooled_of(validation.pixels), validation.sources == PHANTOM)


def rates(strangeness: Strangeness, test: Images, pooled_of: PooledOf) -> dict[str, Any]:
    """Return shares in [0, 1] of images that are refused.

    "refused" of test images by source, "caught" of strangers made of test images, as many of each kind as
    "test images made into strangers" says: "known kinds" such as were fitted to, "other kinds" (of which two
    are near those, see `training.strangers`), each by name.
    """
    refused = strangeness.of(pooled_of(test.pixels)) > LIMIT
    some = test.pixels[np.random.default_rng(0).permutation(len(test))[:_JUDGED]]
    return {
        "refused": {
            str(name): float(refused[test.sources == name].mean()) for name in np.unique(test.sources)
        },
        "test images made into strangers": len(some),
        "caught of known kinds": _caught(strangeness, some, KINDS, pooled_of),
        "caught of other kinds": _caught(strangeness, some, UNSEEN, pooled_of),
    }


def refit(artefact: Artefact, images: Images, parts: NDArray[np.str_], out: Path) -> Artefact:
    """Return a copy of an artefact, in the folder `out`, to which is strange what these images tell.

    They may be others than those that it was trained with; what it has learnt from before is not forgotten.
    Its weights and graphs stay; its version gets "+" and a digest, since it answers otherwise. How many
    images are not assessed then, its figures and its card tell only after `training.report.measure`.
    """
    engine = choose_engine(artefact, "auto")
    training, validation, test = (images.where(parts == part) for part in ("train", "validation", "test"))
    strangeness = fit(training, validation, pooled_by(engine))
    measured = rates(strangeness, test, pooled_by(engine))
    shutil.copytree(artefact.folder, out, dirs_exist_ok=True)
    copied = replace(artefact, folder=out)
    content = strangeness.content()
    version = f"{artefact.version.partition('+')[0]}+{hashlib.sha256(content).hexdigest()[:8]}"
    fitted = add_file(copied, STRANGENESS, content, {"strangeness": measured, "version": version})
    return remembering(fitted, images, parts, artefact)


def pooled_by(engine: Engine) -> PooledOf:
    """Return what reads images with an engine, some at a time."""

    def read(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        batches = [np.ascontiguousarray(pixels[start : start + 32]) for start in range(0, len(pixels), 32)]
        return np.concatenate([pooled(engine.read(batch).features) for batch in batches])

    return read


def _axes(known: Values) -> tuple[Values, Values]:
    centred = known - known.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    count = min(_AXES, len(lengths) - 1)
    variances = np.square(lengths) / len(known)
    rest = variances[count:].sum() / max(known.shape[1] - count, 1)
    least = 1e-6 * variances.sum() + 1e-12  # what never varied here may vary a little
    return directions[:count], np.maximum([*variances[:count], rest], least).astype(np.float32)


def _direction(known: Values, strange: Values) -> Values:
    """The way that tells known from strange best, by logistic regression on standardised features."""
    spread = known.std(axis=0) + 0.1 * known.std() + 1e-6  # features that hardly vary must not decide alone
    both = (np.concatenate([known, strange]) - known.mean(axis=0)) / spread
    is_strange = np.repeat([0, 1], [len(known), len(strange)])
    regression = LogisticRegression(C=_FREEDOM, class_weight="balanced", max_iter=1000)
    return np.asarray(regression.fit(both, is_strange).coef_[0] / spread, np.float32)


def _calibrated(plain: Strangeness, held_out: Values, is_phantom: NDArray[np.bool_]) -> Strangeness:
    signs = plain.signs(held_out)
    middles = np.median(signs, axis=0)
    reaches = np.maximum(np.quantile(signs, _HARDLY_EVER, axis=0) - middles, 1e-6)
    scaled = replace(plain, middles=middles, reaches=reaches)
    stronger = scaled.stronger(held_out)
    groups = [stronger[group] for group in (is_phantom, ~is_phantom) if group.any()]
    limit = max(np.quantile(group, _READ) for group in groups)
    quantiles = np.quantile(np.minimum(stronger, limit), np.linspace(0, 1, 101))
    return replace(scaled, quantiles=quantiles.astype(np.float32))


def _caught(
    strangeness: Strangeness, pixels: NDArray[np.uint8], kinds: Mapping[str, Any], pooled_of: PooledOf
) -> dict[str, float]:
    made = ((name, strangers(pixels, {name: kind})) for name, kind in kinds.items())
    return {name: float((strangeness.of(pooled_of(images)) > LIMIT).mean()) for name, images in made}
