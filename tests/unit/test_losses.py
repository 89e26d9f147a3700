"""What answers cost."""

from typing import TYPE_CHECKING

import pytest

from training.recipe import CrossEntropy, GeneralisedCrossEntropy, SymmetricCrossEntropy

if TYPE_CHECKING:
    from torch import Tensor

torch = pytest.importorskip("torch")

from training.losses import loss_of, smoothed  # noqa: E402 - they need torch


@pytest.fixture
def answers() -> "tuple[Tensor, Tensor]":
    torch.manual_seed(0)
    return torch.randn(16, 4), torch.nn.functional.one_hot(torch.arange(16) % 4, 4).float()


def test_generalised_cross_entropy_is_cross_entropy_at_0_and_the_absolute_error_at_1(
    answers: "tuple[Tensor, Tensor]",
) -> None:
    logits, targets = answers
    plain = loss_of(CrossEntropy(kind="cross entropy"))(logits, targets)
    nearly = loss_of(GeneralisedCrossEntropy(kind="generalised cross entropy", q=1e-4))(logits, targets)
    torch.testing.assert_close(nearly, plain, rtol=1e-3, atol=0)
    absolute = loss_of(GeneralisedCrossEntropy(kind="generalised cross entropy", q=1.0))(logits, targets)
    torch.testing.assert_close(absolute, (targets - logits.softmax(1)).abs().sum(1).mean() / 2)


def test_symmetric_cross_entropy_adds_four_times_the_doubt(
    answers: "tuple[Tensor, Tensor]",
) -> None:
    logits, targets = answers
    plain = loss_of(CrossEntropy(kind="cross entropy"))(logits, targets)
    both = SymmetricCrossEntropy(kind="symmetric cross entropy", forward=0.5, reverse=2.0)
    doubt = 1 - (logits.softmax(1) * targets).sum(1).mean()
    torch.testing.assert_close(loss_of(both)(logits, targets), 0.5 * plain + 2.0 * 4 * doubt)


@pytest.mark.parametrize(
    "robust",
    [
        GeneralisedCrossEntropy(kind="generalised cross entropy", q=0.7),
        SymmetricCrossEntropy(kind="symmetric cross entropy", forward=0.1, reverse=1.0),
    ],
    ids=lambda robust: robust.kind,
)
def test_a_wrong_label_pulls_less_than_by_cross_entropy(
    robust: GeneralisedCrossEntropy | SymmetricCrossEntropy,
) -> None:
    right, wrong = torch.tensor([[4.0, 0, 0, 0]]), torch.tensor([[0.0, 4.0, 0, 0]])
    pulls = {}
    for chosen in (CrossEntropy(kind="cross entropy"), robust):
        logits = torch.cat([right, wrong]).requires_grad_()
        targets = torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4)
        loss_of(chosen)(logits, targets).backward()
        assert logits.grad is not None
        sure, unlikely = logits.grad.abs().sum(1).tolist()
        pulls[chosen.kind] = unlikely / sure
    assert pulls[robust.kind] < pulls["cross entropy"] / 2


def test_smoothing_is_torch_s(answers: "tuple[Tensor, Tensor]") -> None:
    logits, targets = answers
    ours = loss_of(CrossEntropy(kind="cross entropy"))(logits, smoothed(targets, 0.1))
    torch.testing.assert_close(
        ours, torch.nn.functional.cross_entropy(logits, targets.argmax(1), label_smoothing=0.1)
    )
