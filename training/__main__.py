"""One training in a process of its own, which `training.tasks` starts and watches.

`python -m training FOLDER PARENT TOTAL_S LEFT_S`: the folder has recipe and list of images, as
`training.tasks` put them there; with several GPUs torchrun takes this process's place and starts one each.
A process that works on tasks was forked, and could not use CUDA; and torch's memory is given back this way.
"""

import os
import sys
from pathlib import Path

from hilum.errors import HilumError, Interrupted
from hilum.kernel import dying_with
from hilum.process import begin
from hilum.settings import settings
from training.budget import Budget

RECIPE, IMAGES, FAILURE, CACHE = "recipe.json", "images.csv", "failure.txt", "training-cache"
FAILED, INTERRUPTED = 3, 4
"""Exit statuses: of a failure that its file tells in words, and of a stop that left a checkpoint."""


def main(folder: Path, parent: int, total_s: float, left_s: float) -> int:
    """Train, or go on training, in a folder; return the exit status."""
    dying_with(parent)()  # no orphan goes on training
    begin()
    try:
        _spread_over_gpus(folder, total_s, left_s)
        _train(folder, Budget(total_s, left_s))
    except Interrupted:
        return INTERRUPTED
    except HilumError as error:
        (folder / FAILURE).write_text(str(error), encoding="utf-8")
        return FAILED
    return 0


def _spread_over_gpus(folder: Path, total_s: float, left_s: float) -> None:
    """Have torchrun start a process for each GPU, as many as can share a step's batches evenly."""
    import torch

    from training import recipe

    batches, gpus = recipe.read(folder / RECIPE).batches_per_step, torch.cuda.device_count()
    count = max((number for number in range(1, gpus + 1) if batches % number == 0), default=1)
    if count > 1 and "WORLD_SIZE" not in os.environ:
        torchrun = ("-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
        ours = ("-m", "training", str(folder), str(os.getpid()), str(total_s), str(left_s))
        os.execv(sys.executable, (sys.executable, *torchrun, *ours))  # noqa: S606 - no shell is meant


def _train(folder: Path, budget: Budget) -> None:
    from training.train import train

    train(
        folder / RECIPE,
        folder,
        images=settings().store,
        manifest=folder / IMAGES,
        cache=settings().data_dir / CACHE,
        budget=budget,
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
