"""The joint loss: values by hand, weights, supersets, absent classes."""

from __future__ import annotations

import math

import pytest
import torch

from spider_bundle.training.losses import JointLoss, pack_targets

K = 6


def one_hot(*labels: int) -> torch.Tensor:
    return torch.eye(K)[list(labels)][None]


def superset(*labels: int) -> torch.Tensor:
    return torch.eye(K)[list(labels)].sum(dim=0)[None, None]


def target(
    intensity: list[float], weight: list[float], allowed: torch.Tensor | None = None
) -> torch.Tensor:
    known = one_hot(*[0] * len(intensity)) if allowed is None else allowed
    return pack_targets(torch.tensor([intensity]), torch.tensor([weight]), known)


def prediction(intensity: list[float], logits: torch.Tensor | None = None) -> torch.Tensor:
    values = torch.tensor([intensity])[..., None]
    classes = torch.zeros(1, len(intensity), K) if logits is None else logits
    return torch.cat([classes, values], dim=-1)


def intensity_only(**weights: float) -> JointLoss:
    return JointLoss(**{"l1": 0.0, "structure": 0.0, **weights})


def structure_only(**weights: float) -> JointLoss:
    return JointLoss(**{"l1": 0.0, "cross_entropy": 0.0, "dice": 0.0, **weights})


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # errors 0.2 (weight 1) and -0.4 (weight 0.5)
        (intensity_only(l1=1.0), (0.2 + 0.5 * 0.4) / 1.5),
        (intensity_only(mse=1.0), (0.04 + 0.5 * 0.16) / 1.5),
        (
            intensity_only(charbonnier=1.0, charbonnier_epsilon=0.3),
            (math.sqrt(0.13) - 0.3 + 0.5 * (0.5 - 0.3)) / 1.5,
        ),
        (intensity_only(l1=2.0, mse=5.0), 2 * 0.4 / 1.5 + 5 * 0.12 / 1.5),
    ],
    ids=["l1", "mse", "charbonnier", "sum"],
)
def test_intensity_terms_by_hand(loss: JointLoss, expected: float) -> None:
    value = loss(prediction([0.7, 0.1]), target([0.5, 0.5], [1.0, 0.5]))
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[2.0, 0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0, 0]]])
    value = structure_only(cross_entropy=1.0)(
        prediction([0, 0], logits), target([0, 0], [1.0, 3.0], one_hot(0, 1))
    )
    first = math.log(math.exp(2) + 5) - 2
    second = math.log(math.e + 5)
    assert float(value) == pytest.approx((first + 3 * second) / 4, rel=1e-5)


def test_class_weights_weigh_the_cross_entropy() -> None:
    logits = torch.tensor([[[2.0, 0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0, 0]]])
    loss = structure_only(cross_entropy=1.0, class_weights=[1.0, 4.0, 1.0, 1.0, 1.0, 1.0])
    value = loss(prediction([0, 0], logits), target([0, 0], [1.0, 1.0], one_hot(0, 1)))
    first = math.log(math.exp(2) + 5) - 2
    second = math.log(math.e + 5)
    assert float(value) == pytest.approx((first + 4 * second) / 5, rel=1e-5)


def test_dice_by_hand() -> None:
    p = torch.tensor([[[0.7, 0.1, 0.1, 0.04, 0.03, 0.03], [0.2, 0.5, 0.1, 0.1, 0.05, 0.05]]])
    value = structure_only(dice=1.0)(
        prediction([0, 0], p.log()), target([0, 0], [1.0, 1.0], one_hot(0, 1))
    )
    # overlap and size per present class, with 1 added to both; classes 2 to 5 are absent
    background = (2 * 0.7 + 1) / (0.7 + 0.2 + 1 + 1)
    soft_tissue = (2 * 0.5 + 1) / (0.1 + 0.5 + 1 + 1)
    assert float(value) == pytest.approx(1 - (background + soft_tissue) / 2, rel=1e-5)


def test_dice_of_a_perfect_answer_is_zero() -> None:
    truth = one_hot(0, 1, 2, 3, 4, 5)
    value = structure_only(dice=1.0)(
        prediction([0] * 6, 50 * truth), target([0] * 6, [1.0] * 6, truth)
    )
    assert float(value) == pytest.approx(0, abs=1e-6)


def test_absent_classes_do_not_move_dice() -> None:
    # probability moved between two absent classes changes nothing, and they carry no average
    loss = structure_only(dice=1.0)
    p = torch.tensor([[[0.6, 0.1, 0.1, 0.1, 0.05, 0.05]] * 4])
    q = torch.tensor([[[0.6, 0.1, 0.2, 0.0, 0.05, 0.05]] * 4])
    truth = target([0] * 4, [1.0] * 4, one_hot(0, 0, 1, 1))
    first = loss(prediction([0] * 4, p.log()), truth)
    second = loss(prediction([0] * 4, q.log()), truth)
    assert float(first) == pytest.approx(float(second), abs=1e-6)


def test_points_of_weight_zero_carry_no_gradient() -> None:
    torch.manual_seed(0)
    output = torch.randn(1, 4, K + 1, requires_grad=True)
    loss = JointLoss(l1=1.0, mse=1.0, charbonnier=1.0)
    loss(output, target([0.5] * 4, [1.0, 0.0, 1.0, 0.0], one_hot(0, 1, 2, 3))).backward()
    assert output.grad is not None
    assert bool((output.grad[0, [1, 3]] == 0).all())
    assert bool((output.grad[0, [0, 2]] != 0).all())


def test_nothing_known_is_no_gradient() -> None:
    output = torch.randn(1, 2, K + 1, requires_grad=True)
    JointLoss(mse=1.0)(output, target([0.5] * 2, [0.0] * 2, one_hot(0, 1))).backward()
    assert output.grad is not None
    assert bool((output.grad == 0).all())


def test_unknown_points_do_not_poison_the_loss() -> None:
    # no label is allowed where nothing is known; the weight is 0 there
    output = torch.randn(1, 2, K + 1, requires_grad=True)
    allowed = torch.cat([one_hot(1), torch.zeros(1, 1, K)], dim=1)
    for class_weights in (None, [1.0] * K):
        output.grad = None
        loss = JointLoss(mse=1.0, class_weights=class_weights)
        loss(output, target([0.5, 0.5], [1.0, 0.0], allowed)).backward()
        assert output.grad is not None
        assert bool(output.grad.isfinite().all())
        assert bool((output.grad[0, 1] == 0).all())


def test_superset_is_the_probability_of_the_union() -> None:
    p = torch.tensor([0.1, 0.1, 0.3, 0.1, 0.2, 0.2])
    loss = structure_only(cross_entropy=1.0)
    value = loss(prediction([0], p.log()[None, None]), target([0], [1.0], superset(2, 5)))
    assert float(value) == pytest.approx(-math.log(0.3 + 0.2), rel=1e-5)


TERMS = ["cross_entropy", "dice"]
LIKELY = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0, 1.0])


def structure_gradient(logits: torch.Tensor, truth: torch.Tensor, term: str) -> torch.Tensor:
    """Gradient (K,) by the logits of four like points, beside one known point of each label."""
    known = one_hot(*range(K))
    z = logits.clone().requires_grad_()
    classes = torch.cat([z.expand(1, 4, K), torch.zeros(1, K, K)], dim=1)
    output = torch.cat([classes, torch.zeros(1, 4 + K, 1)], dim=-1)
    allowed = torch.cat([truth.expand(1, 4, K), known], dim=1)
    loss = structure_only(**{term: 1.0})
    loss(output, target([0] * (4 + K), [1.0] * (4 + K), allowed)).backward()
    assert z.grad is not None
    return z.grad


@pytest.mark.parametrize("term", TERMS)
def test_superset_pulls_equally_likely_labels_alike(term: str) -> None:
    gradient = structure_gradient(torch.zeros(K), superset(2, 5), term)
    assert float(gradient[2]) == pytest.approx(float(gradient[5]), abs=1e-7)
    others = gradient[[0, 1, 3, 4]]
    assert float(gradient[2]) < float(others.min())  # descent raises both above the others


@pytest.mark.parametrize("term", TERMS)
def test_superset_does_not_favour_the_likelier_label(term: str) -> None:
    # moving probability from one allowed label to the other is free: as -log(p2 + p5) has the same
    # derivative by p2 and by p5, its gradient by the logits is in proportion to p2 and p5
    p = LIKELY.softmax(dim=0)
    gradient = structure_gradient(LIKELY, superset(2, 5), term)
    by_probability = gradient / p  # up to a constant that is the same for all labels
    assert float(by_probability[2]) == pytest.approx(float(by_probability[5]), abs=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_everything_allowed_is_no_gradient(term: str) -> None:
    gradient = structure_gradient(LIKELY, superset(*range(K)), term)
    torch.testing.assert_close(gradient, torch.zeros(K), atol=1e-6, rtol=0)


def test_structure_zero_is_intensity_only() -> None:
    loss = JointLoss(l1=1.0, structure=0.0)
    output = torch.randn(1, 3, K + 1, requires_grad=True)
    truth = target([0.5] * 3, [1.0] * 3, one_hot(0, 1, 2))
    assert set(loss.terms(output, truth)) == {"l1"}
    loss(output, truth).backward()
    assert output.grad is not None
    assert bool((output.grad[..., :-1] == 0).all())
    assert bool((output.grad[..., -1] != 0).all())


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    torch.manual_seed(0)
    loss = JointLoss(l1=0.5, mse=5.0, charbonnier=2.0, structure=0.1, cross_entropy=3.0, dice=4.0)
    output = torch.randn(2, 5, K + 1)
    truth = pack_targets(torch.rand(2, 5), torch.rand(2, 5), torch.eye(K)[torch.randint(K, (2, 5))])
    t = loss.terms(output, truth)
    by_hand = 0.5 * t["l1"] + 5 * t["mse"] + 2 * t["charbonnier"]
    by_hand = by_hand + 0.1 * (3 * t["cross_entropy"] + 4 * t["dice"])
    torch.testing.assert_close(loss(output, truth), by_hand)


def test_reduced_precision_predictions_are_compared_in_float32() -> None:
    output = torch.randn(1, 3, K + 1).bfloat16()
    truth = target([0.5] * 3, [1.0] * 3, one_hot(0, 1, 2))
    assert torch.equal(JointLoss()(output, truth), JointLoss()(output.float(), truth))
