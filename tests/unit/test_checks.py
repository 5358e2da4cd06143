"""What would give a wrong number is refused, and what to do is said; what is sound passes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gwprune.curvature.checks import CHECKS, CurvatureError
from gwprune.curvature.operator import OPERATORS, curvature_operator
from gwprune.predict import predict_threshold
from gwprune.spectral.lanczos import rademacher
from gwprune.spectral.projection import statistical_dimension
from gwprune.spectral.width import squared_width

from .helpers_networks import Net, labels, normal

SAMPLES = 96


def net(function: Callable | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = {"a": nn.Linear(8, 16), "b": nn.Linear(16, 3)}
    return Net(function or (lambda n, x: n.b(torch.tanh(n.a(x)))), **layers).to(dtype).eval()


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return normal(SAMPLES, 8, dtype=dtype), labels(SAMPLES, 3)


def threshold(model: nn.Module, loss: Callable = F.cross_entropy, samples=None, **options) -> float:
    return predict_threshold(model, loss, samples or data(), epsilon=0.05, steps=8, **options).threshold


def test_a_sound_network_passes_and_the_result_names_the_checks():
    found = predict_threshold(net(), F.cross_entropy, data(), epsilon=0.05, steps=8)
    assert found.checks == CHECKS
    unchecked = predict_threshold(net(), F.cross_entropy, data(), epsilon=0.05, steps=8, checks=False)
    assert unchecked.checks == ()
    assert (unchecked.lower, unchecked.threshold, unchecked.upper) == (found.lower, found.threshold, found.upper)


def fitted(samples: tuple[Tensor, Tensor]) -> nn.Module:
    """A network with a loss near 0: of its residuals few digits are left in single precision."""
    model = net(lambda n, x: n.b(F.gelu(n.a(x)))).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(samples[0]), samples[1]).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("kind", OPERATORS)
def test_the_rounding_of_products_is_measured(kind: str):
    samples = data()
    model = fitted(samples)
    operator = curvature_operator(model, F.cross_entropy, samples, operator=kind)
    assert operator.roundings > 32
    double = (samples[0].double(), samples[1])
    exact = curvature_operator(copy.deepcopy(model).double(), F.cross_entropy, double, operator=kind)
    assert exact.roundings == 32  # nothing more exact to compare with
    for probe in range(8):
        vector = rademacher(operator.shape[0], 1, probe)
        expected = exact @ vector.double()
        error = (operator @ vector - expected).norm() / expected.norm() / torch.finfo(torch.float32).eps
        assert error <= operator.roundings
    assert curvature_operator(model, F.cross_entropy, samples, operator=kind, checks=False).roundings == 32


@pytest.mark.parametrize("kind", OPERATORS)
def test_filters_that_l1_has_emptied_pass_although_their_maxima_hang_on_the_last_digits(kind: str):
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 8, 5, padding=2), nn.Conv2d(8, 8, 5)
    with torch.no_grad():
        first.weight[2:] *= 1e-6
        first.bias[2:] = 0.1
        second.weight[:, 2:] *= 1e-6
    model = nn.Sequential(
        *(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 3))
    ).eval()
    operator = curvature_operator(model, F.cross_entropy, (torch.rand(64, 1, 24, 24), labels(64, 3)), operator=kind)
    assert operator.checks == CHECKS
    assert operator.roundings < 1000  # in float64 other maxima are taken: another matrix, and no rounding


def test_the_result_says_what_was_allowed_for_rounding():
    samples = data()
    found = predict_threshold(fitted(samples), F.cross_entropy, samples, epsilon=0.05, steps=8)
    assert found.roundings > 32


def test_checks_leave_weights_random_numbers_and_gradients_alone():
    for dtype in (torch.float32, torch.float64):
        model = net(dtype=dtype)
        before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        curvature_operator(model, F.cross_entropy, data(dtype))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random)
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


# --- torch.compile ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("part", ["whole", "in_place", "layer", "loss"])
def test_what_is_compiled_is_computed_eagerly(part: str, kind: str):
    model, loss = net(), F.cross_entropy
    expected = curvature_operator(net(), loss, data(), operator=kind) @ torch.ones(176)
    if part == "whole":
        model = torch.compile(model, backend="eager")
    elif part == "in_place":
        model.compile(backend="eager")
    elif part == "layer":
        model.a = torch.compile(model.a, backend="eager")
    else:
        loss = torch.compile(loss, backend="eager")
    product = curvature_operator(model, loss, data(), operator=kind) @ torch.ones(176)
    assert torch.equal(product, expected)


# --- a mean over samples ----------------------------------------------------------------------------------------


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    unit = F.normalize(output)
    return F.cross_entropy(unit @ unit.t(), torch.arange(len(output)))


def over_time(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def of_the_batch() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3))


def recurrent(**options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(26)  # one split of the samples agrees by chance
        layers = {"a": nn.RNN(8, 5, **options), "b": nn.Linear(5, 3)}
    return Net(lambda n, x: n.b(n.a(x)[0]), **layers)


def ignored() -> tuple[Tensor, Tensor]:
    inputs, targets = data()
    return inputs, torch.where(torch.arange(SAMPLES) > 70, -100, targets)


def by_class() -> tuple[Tensor, Tensor]:
    return data()[0], torch.arange(SAMPLES) * 3 // SAMPLES


NO_MEAN = {
    "sum": lambda: (net(), nn.CrossEntropyLoss(reduction="sum"), data()),
    "class_weights": lambda: (net(), nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 5.0])), data()),
    "class_weights_sorted": lambda: (net(), nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 5.0])), by_class()),
    "ignore_index": lambda: (net(), F.cross_entropy, ignored()),
    "contrastive": lambda: (net(), contrastive, data()),
    "batch_norm": lambda: (of_the_batch(), F.cross_entropy, data()),
    "time_first": lambda: (recurrent(), over_time, (normal(20, 6, 8, dtype=torch.float32), labels(120, 3).view(20, 6))),
}


@pytest.mark.parametrize("name", NO_MEAN)
def test_a_loss_that_is_no_mean_over_samples_is_refused(name: str):
    model, loss, samples = NO_MEAN[name]()
    with pytest.raises(CurvatureError, match=r"no mean over samples: .* Use reduction='mean'.* checks=False"):
        threshold(model, loss, samples)
    assert 0 <= threshold(model, loss, samples, batch_size=SAMPLES, checks=False) <= 1


def test_a_mean_over_samples_and_time_passes():
    model = recurrent(batch_first=True)
    assert 0 < threshold(model, over_time, (normal(20, 6, 8, dtype=torch.float32), labels(120, 3).view(20, 6))) < 1


# --- what autograd gets wrong -----------------------------------------------------------------------------------


class WithoutGraph(torch.autograd.Function):
    """A tanh whose backward pass is a kernel without a derivative."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        with torch.no_grad():
            return gradient * (1 - y**2)


class Once(WithoutGraph):
    backward = staticmethod(torch.autograd.function.once_differentiable(WithoutGraph.backward))


class InSinglePrecision(WithoutGraph):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("this kernel takes float32")
        return WithoutGraph.forward(ctx, x)


def straight_through(n: Net, x: Tensor) -> Tensor:
    weight = n.a.weight
    rounded = weight + ((16 * weight).round() / 16 - weight).detach()
    return n.b(torch.tanh(F.linear(x, rounded)))


def stopped(n: Net, x: Tensor) -> Tensor:
    hidden = torch.tanh(n.a(x))
    return n.b(hidden / hidden.detach().norm(dim=1, keepdim=True))


def cut_off(n: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = torch.tanh(n.a(x))
    return n.b(hidden)


WRONG = {
    "without_graph": lambda n, x: n.b(WithoutGraph.apply(n.a(x))),
    "once_differentiable": lambda n, x: n.b(Once.apply(n.a(x))),
    "in_single_precision": lambda n, x: n.b(InSinglePrecision.apply(n.a(x))),
    "straight_through": straight_through,
    "stop_gradient": stopped,
    "no_grad": cut_off,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", WRONG)
def test_a_product_that_autograd_gets_wrong_is_refused(name: str, kind: str, dtype: torch.dtype):
    if name == "in_single_precision" and dtype == torch.float64:
        pytest.skip("it takes float32")
    with pytest.raises(CurvatureError, match=r"autograd is .*off.*|autograd is not that of the loss.*Look for detach"):
        curvature_operator(net(WRONG[name], dtype), F.cross_entropy, data(dtype), operator=kind)


def relu_convolutions() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 64, 3)),
    )


def mixed_inside(n: Net, x: Tensor) -> Tensor:
    """Float64 weights, and a norm in float32 as language models have it."""
    hidden = n.a(x)
    return n.b(F.layer_norm(hidden.float(), (16,)).to(hidden.dtype).tanh())


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", ["kinks", "float32_inside", "dead", "reads_the_network", "float16_weights"])
def test_no_false_alarm(name: str, kind: str, recwarn):
    model, loss, samples = net(), F.cross_entropy, data()
    if name == "kinks":
        model, samples = relu_convolutions().eval(), (normal(40, 1, 16, 16, dtype=torch.float32), labels(40, 3))
    elif name == "float32_inside":
        model = net(mixed_inside)
    elif name == "dead":
        with torch.no_grad():
            model.a.weight.zero_()
    elif name == "reads_the_network":

        def loss(output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(output, target) + 0.1 * model.a.weight.square().sum()
    else:
        model, samples = model.bfloat16(), (samples[0].bfloat16(), samples[1])
    assert curvature_operator(model, loss, samples, operator=kind).checks == CHECKS
    assert not recwarn.list


# --- a curvature of zero ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (F.l1_loss, {"operator": "ggn"}, r"\(ggn\) is exactly zero .*use operator='hessian', or a smooth loss"),
        (lambda output, _: 0 * output.sum(), {}, r"\(hessian\) is exactly zero .*use a loss that curves"),
    ],
    ids=["absolute", "constant"],
)
def test_a_curvature_of_zero_is_refused(loss: Callable, options: dict, message: str):
    samples = data()[0], normal(SAMPLES, 3, dtype=torch.float32)
    with pytest.raises(CurvatureError, match=message):
        threshold(net(), loss, samples, **options)


def test_a_loss_that_is_flat_on_the_samples_looked_at_passes():
    keep = torch.zeros(SAMPLES, 1).index_fill(0, torch.tensor([50]), 1.0)  # every third is looked at, 50 is not
    matrix = curvature_operator(net(), lambda output, target: (target * output.square()).mean(), (data()[0], keep))
    assert (matrix @ torch.ones(176)).any()


# --- data and state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["input", "target"])
def test_missing_values_are_said_to_be_those_of_the_data(part: str):
    inputs, targets = data()[0], normal(SAMPLES, 3, dtype=torch.float32)
    {"input": inputs, "target": targets}[part][[7, 77], 1] = float("nan")
    with pytest.raises(
        FloatingPointError, match=f"data hold NaN: 2 of 96 samples in their {part}, the first is sample 7"
    ):
        threshold(net(), F.mse_loss, (inputs, targets))


def test_infinite_inputs_whose_products_are_not_finite_are_refused():
    inputs, targets = data()
    inputs[6, 2] = float("inf")  # a tanh makes 1 of it, and its second derivative NaN
    with pytest.raises(FloatingPointError, match="data hold infinite numbers: 1 of 96 .* the first is sample 6"):
        threshold(net(), samples=(inputs, targets))


def test_the_weight_that_is_nan_is_named():
    model = net()
    with torch.no_grad():
        model.b.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="b.bias of the network holds NaN"):
        threshold(model)


def test_data_that_the_network_changes_in_place_come_back():
    inputs, targets = data()
    before = inputs.clone()
    model = net(lambda n, x: n.b(torch.tanh(n.a(F.relu(x, inplace=True)))))
    threshold(model, samples=(inputs, targets))
    assert torch.equal(inputs, before)


def test_what_inference_mode_made_is_refused():
    with torch.inference_mode():
        model = net()
        with pytest.raises(ValueError, match=r"inference_mode\(\) makes cannot be differentiated: leave it"):
            threshold(net())
    with pytest.raises(ValueError, match="load weights that were into a network that was not"):
        threshold(model)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_missing_values_that_the_network_fills_in_pass(value: float):
    inputs, targets = data()
    inputs[5, 2] = value
    assert 0 < threshold(net(lambda n, x: n.b(torch.tanh(n.a(x.nan_to_num())))), samples=(inputs, targets)) < 1


def test_buffers_that_count_passes_come_back():
    def counting(n: Net, x: Tensor) -> Tensor:
        n.passes += 1
        n.anew = n.anew + 1
        return n.b(torch.tanh(n.a(x)))

    model = net(counting)
    model.register_buffer("passes", torch.tensor(3))
    model.register_buffer("anew", torch.tensor(4.0))
    own = model.anew
    predict_threshold(
        model, F.cross_entropy, (normal(256, 8, dtype=torch.float32), labels(256, 3)), batch_size=50, steps=4
    )
    assert (int(model.passes), float(model.anew)) == (3, 4.0)
    assert model.anew is own


# --- arguments --------------------------------------------------------------------------------------------------


def mixed() -> nn.Module:
    model = net()
    model.b.bfloat16()
    return model


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (F.cross_entropy, TypeError, "model must be a torch.nn.Module, got function; the order is model, loss_fn"),
        (net().to("meta"), ValueError, "a.weight is on the meta device"),
        (torch.jit.trace(net(), data()[0]), ValueError, "scripted or traced.*use the module that it was made of"),
        (torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}), ValueError, "quantised.*use the module"),
        (nn.Sequential(nn.LazyLinear(3)), ValueError, r"0.weight \(LazyLinear\) has no shape yet: call the network"),
        (nn.CrossEntropyLoss(), ValueError, "has no parameters at all .*the order of the arguments is model, loss_fn"),
        (mixed(), ValueError, r"a.weight is torch.float32, b.weight is torch.bfloat16; use model.float\(\)"),
    ],
    ids=["swapped", "meta", "traced", "quantised", "lazy", "a loss", "mixed"],
)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_other_networks_are_refused(model, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        threshold(model)


@pytest.mark.parametrize(
    "given", [{"steps": 10.5}, {"steps": "10"}, {"steps": True}, {"probes": 1.5}, {"batch_size": 2.5}, {"seed": "a"}]
)
def test_what_is_no_whole_number_is_refused(given: dict):
    ((name, value),) = given.items()
    with pytest.raises(TypeError, match=f"{name} must be a whole number of at least ., got {value!r}"):
        predict_threshold(net(), F.cross_entropy, data(), epsilon=0.1, **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_that_is_not_symmetric_is_refused(dtype: torch.dtype):
    matrix = normal(200, 200, dtype=dtype)
    symmetric = matrix + matrix.t()
    calls = (lambda a: squared_width(a, 1.0, 0.1), lambda a: statistical_dimension(a, torch.ones(200), 0.1, probes=2))
    for call in calls:
        call(symmetric)
        with pytest.raises(ValueError, match=r"not symmetric: u.Av and v.Au differ .* use \(A \+ A.T\) / 2"):
            call(symmetric + 0.01 * matrix)


def test_a_loss_in_float32_of_a_network_in_float64_passes_near_its_minimum():
    """As language models of transformers compute it: differences of such a loss are rounding alone where it is flat."""
    model, inputs, targets = nn.Linear(5, 3).double(), normal(32, 5), labels(32, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=0, tolerance_change=0)

    def loss_fn(output, target):
        return F.cross_entropy(output.float(), target)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        model.weight += 1e-5 * normal(3, 5, seed=1)
    operator = curvature_operator(model.eval(), loss_fn, (inputs, targets))
    exact = curvature_operator(model, F.cross_entropy, (inputs, targets))
    assert operator.gradient().norm() < 1e-4
    vector = normal(15)
    assert (operator @ vector - exact @ vector).norm() < 1e-5 * (exact @ vector).norm()
    with pytest.raises(CurvatureError, match="of autograd is"):
        curvature_operator(model, lambda o, y: loss_fn(o + (0.5 * o).detach(), y), (inputs[:20], targets[:20]))
