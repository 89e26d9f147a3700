"""What a network's answers cost, given labels that are shares: mixed and smoothed ones too."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from training.recipe import CrossEntropy, GeneralisedCrossEntropy, SymmetricCrossEntropy

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, K) and targets (B, K), whose rows sum to 1, to their mean loss."""

_LOG_OF_0 = -4.0  # what the reverse cross entropy takes it to be: A of Wang et al.


def loss_of(chosen: CrossEntropy | GeneralisedCrossEntropy | SymmetricCrossEntropy) -> Loss:
    if isinstance(chosen, GeneralisedCrossEntropy):
        return generalised_cross_entropy(chosen.q)
    if isinstance(chosen, SymmetricCrossEntropy):
        return symmetric_cross_entropy(chosen.forward, chosen.reverse)
    return functional.cross_entropy


def generalised_cross_entropy(q: float) -> Loss:
    """Return (1 - p^q) / q, where p is the true label's probability (Zhang and Sabuncu, NeurIPS 2018)."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return (targets * (1 - logits.softmax(1) ** q) / q).sum(1).mean()

    return loss


def symmetric_cross_entropy(forward: float, reverse: float) -> Loss:
    """Return cross entropy and reverse cross entropy, weighted (Wang et al., ICCV 2019)."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        turned_round = -(logits.softmax(1) * targets.log().clamp(min=_LOG_OF_0)).sum(1).mean()
        return forward * functional.cross_entropy(logits, targets) + reverse * turned_round

    return loss


def smoothed(targets: Tensor, share: float) -> Tensor:
    """Return targets (B, K) of which a share is spread evenly over all labels."""
    return targets * (1 - share) + share / targets.shape[1]
