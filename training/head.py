"""The head, fitted anew at the end to what the finished network sees.

While features are learnt, images are small, mixed, and of another exposure every time, and classes may come
evenly. What an answer is worth at work hangs on features as they are then, and on how common the classes
are. The new head sees every training image, the phantoms among them, equally often: its proportions are
those of the training part. Features and head are learnt one after the other as in Kang et al. (Decoupling
Representation and Classifier for Long-Tailed Recognition, ICLR 2020), who however draw the classes evenly for
the head.
"""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from hilum.network import head_of
from training.batches import seed
from training.data import Images
from training.learner import DEVICE, predict
from training.recipe import Recipe, RefitHead

_BATCH = 64
_NARROWEST = 0.1  # of the mean variance: features that hardly vary must not be blown up


def finish(network: nn.Module, recipe: Recipe, training: Images) -> None:
    """Do with a trained network's head what the recipe says, given the images it was trained on."""
    if isinstance(recipe.head, RefitHead):
        seed(recipe.seed, recipe.epochs)
        _refit(network, recipe.head, training)


def _refit(network: nn.Module, how: RefitHead, training: Images) -> None:
    """Give a network a new head; all else stays."""
    seen = torch.from_numpy(predict(network, training.pixels)[1]).to(DEVICE)
    labels = torch.from_numpy(training.labels).to(DEVICE)
    mean, variance = seen.mean(0), seen.var(0)
    spread = (variance + _NARROWEST * variance.mean()).sqrt()
    head = _fresh(head_of(network))
    _fit(head, (seen - mean) / spread, labels, how)
    _take_in(head, mean, spread)
    head_of(network).load_state_dict(head.state_dict())


def _fresh(head: nn.Sequential) -> nn.Sequential:
    fresh = deepcopy(head)
    for layer in fresh:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return fresh


def _fit(head: nn.Sequential, standard: Tensor, labels: Tensor, how: RefitHead) -> None:
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), how.learning_rate, weight_decay=how.weight_decay)
    steps = how.epochs * math.ceil(len(labels) / _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.learning_rate, steps, pct_start=0.1)
    for _ in range(how.epochs):
        for chosen in torch.randperm(len(labels)).split(_BATCH):
            loss = functional.cross_entropy(head(standard[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    head.eval()


@torch.no_grad()
def _take_in(head: nn.Sequential, mean: Tensor, spread: Tensor) -> None:
    """Let the head's first layer do the standardising that it was fitted with."""
    first = next(layer for layer in head if isinstance(layer, nn.Linear))
    first.weight.div_(spread)
    first.bias.sub_(first.weight @ mean)
