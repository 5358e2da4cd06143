"""Evaluation: loss and accuracy against a direct computation, and pruning in place that always comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gwprune import models
from gwprune.datasets import DeviceSplit
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import rank
from gwprune.training.evaluation import Evaluation, evaluate, l1_norm, pruned


def split(count: int = 23, seed: int = 0) -> DeviceSplit:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return DeviceSplit(images, torch.randint(0, 3, (count,), generator=generator), [0.4], [0.3])


@pytest.fixture
def model() -> nn.Module:
    """Batch normalisation and dropout: eval mode computes something else than training mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3)
    )
    model(torch.randn(30, 1, 4, 4))
    return model


def direct(model: nn.Module, data: DeviceSplit) -> Evaluation:
    """Loss and accuracy in float64, sample by sample."""
    twin = nn.Sequential(*(nn.Identity() if isinstance(part, nn.Dropout) else part for part in model)).eval()
    losses, right, five = [], 0, 0
    with torch.no_grad():
        for image, label in zip(data.inputs(), data.labels, strict=True):
            output = twin(image[None])[0].double()
            losses.append(float(torch.logsumexp(output, 0) - output[label]))
            right += int(output.argmax() == label)
            five += int(label in output.argsort(descending=True)[:5])
    return Evaluation(float(np.mean(losses)), 100 * right / len(losses), 100 * five / len(losses))


# --- loss and accuracy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 7, 22, 23, 100])
def test_loss_and_accuracy_do_not_depend_on_batches_of_unequal_size(model, batch_size):
    found = evaluate(model, split(), batch_size)
    model.eval()
    expected = direct(model, split())
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.accuracy == expected.accuracy
    assert 0 < found.accuracy < 100


def test_evaluation_leaves_network_modes_and_gradients_as_they_were(model):
    model.eval()
    model[2].train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    evaluate(model, split())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_modes_come_back_when_the_network_fails(model):
    wide = DeviceSplit(torch.zeros(4, 1, 5, 5, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), [0.0], [1.0])
    with pytest.raises(RuntimeError):
        evaluate(model, wide)
    assert all(module.training for module in model.modules())


def test_a_loss_that_is_not_finite_is_reported_as_such(model):
    with torch.no_grad():
        model[5].weight[0, 0] = float("nan")
    assert np.isnan(evaluate(model, split()).loss)


def test_the_l1_norm_counts_prunable_weights_only(model):
    expected = sum(np.abs(model[i].weight.detach().double().numpy()).sum() for i in (1, 5))
    assert l1_norm(PrunableSet(model)) == pytest.approx(expected, rel=1e-12)


def test_the_l1_norm_is_summed_in_float64():
    layer = nn.Linear(2**12, 2**6, bias=False)
    nn.init.constant_(layer.weight, -0.1)
    exact = 2**18 * float(np.float32(0.1))
    assert l1_norm(PrunableSet(layer)) == pytest.approx(exact, rel=1e-12)


# --- pruning in place ---------------------------------------------------------------------------------------


@pytest.fixture
def prunable() -> PrunableSet:
    torch.manual_seed(0)
    prunable = PrunableSet(models.build("fc", (1, 4, 4), 3, hidden=[5]))
    with torch.no_grad():  # values that arithmetic would not bring back
        prunable.parameters[0][0, :3] = torch.tensor([-0.0, 1e-42, 3e38])
    return prunable


def bits(prunable: PrunableSet) -> bytes:
    return prunable.flatten().numpy().tobytes()


@pytest.mark.parametrize("count", [0, 1, 50, 95])
def test_a_mask_is_put_on_and_the_dense_weights_come_back_bit_for_bit(prunable, count):
    dense, before = prunable.flatten(), bits(prunable)
    tensors = [parameter.data_ptr() for parameter in prunable.parameters]
    kept = rank("random", prunable, 0).kept(count)
    assert prunable.dimension == 95
    with pruned(prunable, kept):
        assert torch.equal(prunable.flatten(), torch.where(kept, dense, 0.0))
    assert bits(prunable) == before
    assert [parameter.data_ptr() for parameter in prunable.parameters] == tensors


def test_weights_in_another_memory_order_are_pruned_alike():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3)).to(memory_format=torch.channels_last)
    prunable = PrunableSet(model)
    assert not prunable.parameters[0].is_contiguous()
    dense, kept = prunable.flatten(), rank("magnitude", prunable, 0).kept(50)
    with pruned(prunable, kept):
        assert torch.equal(prunable.flatten(), torch.where(kept, dense, 0.0))
    assert torch.equal(prunable.flatten(), dense)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_dense_weights_come_back_when_the_block_raises(prunable, error):
    before = bits(prunable)

    def fail():
        with pruned(prunable, rank("magnitude", prunable, 0).kept(40)):
            assert bits(prunable) != before
            raise error

    with pytest.raises(error):
        fail()
    assert bits(prunable) == before


def test_biases_stay_while_weights_are_pruned(model):
    prunable = PrunableSet(model)
    others = {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in prunable.names}
    with pruned(prunable, torch.zeros(prunable.dimension, dtype=torch.bool)):
        state = model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in others.items())
        assert not prunable.flatten().any()


def test_a_mask_of_another_network_is_refused(prunable):
    kept = torch.ones(prunable.dimension + 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="96 weights does not fit.*95"), pruned(prunable, kept):
        pytest.fail("the block must not run")
