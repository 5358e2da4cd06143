"""Data as people have them: dicts, arrays, loaders of every kind, losses that are means over something else."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torch.utils.data.sampler import SubsetRandomSampler

from gwprune.curvature.checks import CHECKS, CurvatureError
from gwprune.curvature.operator import OPERATORS, curvature_operator
from gwprune.network.samples import read_samples
from gwprune.predict import predict_threshold

from .helpers_networks import Net, initialised, labels, matrix_of, normal, seeded, tanh_mlp
from .helpers_spectra import DENSE

CPU = torch.device("cpu")


def close(operator, expected: Tensor) -> None:
    torch.testing.assert_close(matrix_of(operator), expected, rtol=1e-9, atol=1e-11)


# --- language models --------------------------------------------------------------------------------------------

TOKENS, WORDS = 6, 7


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class LanguageModel(nn.Module):
    """As libraries have them: named arguments, and an output with logits and, given labels, the loss."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 4)
        self.query, self.value, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Output:
        x = self.embedding(input_ids)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, :].bool()
        scores = (self.query(x) @ x.mT).masked_fill(~mask, -torch.inf)
        x = x + scores.softmax(dim=-1) @ self.value(x)
        logits = self.head(x)
        return Output(logits, None if labels is None else over_words(logits, labels))


def over_words(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def language_model() -> LanguageModel:
    return initialised(LanguageModel())


NAMES = ["query.weight", "value.weight", "head.weight"]


def texts(count: int = 9) -> tuple[Tensor, Tensor]:
    words = torch.randint(WORDS, (count, TOKENS + 1), generator=seeded(3))
    return words[:, :-1].contiguous(), words[:, 1:].contiguous()


class Tokenised(Dataset):
    """Samples are dicts."""

    def __init__(self, **columns: Tensor):
        self.columns = columns
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.read.append(index)
        return {name: column[index] for name, column in self.columns.items()}


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("form", ["pair", "dict", "mapping", "loader", "own_loss", "own_loss_forward", "forward"])
def test_a_causal_language_model_in_every_form(form: str, kind: str):
    model, (inputs, targets) = language_model(), texts()
    expected = DENSE[kind](
        Net(lambda n, x: n.model(x).logits, model=model), over_words, inputs, targets, [f"model.{n}" for n in NAMES]
    )
    columns = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": targets}
    data, loss, options = columns, over_words, {}
    if form == "pair":
        data = inputs, targets
    elif form == "mapping":
        data = UserDict(columns)
    elif form == "loader":
        data = DataLoader(Tokenised(**columns), batch_size=4)
    elif form == "own_loss":
        loss = None
    elif form == "own_loss_forward":
        loss, options = None, {"forward": lambda network, batch: network(**batch)}
    elif form == "forward":
        options = {"forward": lambda network, batch: (network(batch["input_ids"]), batch["labels"])}
    operator = curvature_operator(model, loss, data, operator=kind, batch_size=4, **options)
    assert operator.samples == 9
    assert operator.checks == CHECKS
    close(operator, expected)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("kind", OPERATORS)
def test_nothing_is_larger_than_tokens_times_words(kind: str):
    model = nn.Sequential(nn.Embedding(500, 4), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 500)).double().eval()
    words = torch.randint(500, (2, 17), generator=seeded(3))
    with Largest() as seen:
        operator = curvature_operator(model, over_words, (words[:, :-1], words[:, 1:]), operator=kind)
        operator @ torch.ones(operator.shape[0], dtype=torch.float64)
    assert 2 * 16 * 500 <= seen.elements <= 2 * 2 * 16 * 500


def test_padded_batches_of_unequal_length_are_weighted_by_their_words():
    model, (inputs, targets) = language_model(), texts(8)
    short = targets.clone()
    short[:4, 3:] = -100
    expected = DENSE["hessian"](
        Net(lambda n, x: n.model(x).logits, model=model), over_words, inputs, short, [f"model.{n}" for n in NAMES]
    )
    # Causal: what follows a word does not reach it.
    batches = [
        {"input_ids": inputs[:2, :3], "labels": short[:2, :3]},
        {"input_ids": inputs[2:4, :3], "labels": short[2:4, :3]},
        {"input_ids": inputs[4:], "labels": short[4:]},
        {"input_ids": inputs[4:6], "labels": torch.full_like(short[4:6], -100)},
    ]
    loader = [UserDict(batch) for batch in batches]
    operator = curvature_operator(model, None, iter(loader), weight=lambda y: (y != -100).sum(), batch_size=3)
    assert (operator.samples, [len(part["labels"]) for part in operator.data.parts]) == (10, [4, 6])
    close(operator, expected)


# --- arrays, tuples, graphs -------------------------------------------------------------------------------------


def mlp() -> tuple[nn.Module, Tensor, Tensor, list[str]]:
    model, names = tanh_mlp()
    return model, normal(20, 5), labels(20, 3), names


Pair = namedtuple("Pair", "x y")

FORMS = {
    "numpy": lambda x, y: ((x.numpy(), y.numpy()), {}),
    "numpy_read_only": lambda x, y: ((np.broadcast_to(x.numpy(), x.shape), y.numpy()), {}),
    "triple": lambda x, y: (
        TensorDataset(x, y, torch.arange(20)),
        {"forward": lambda model, batch: (model(batch[0]), batch[1])},
    ),
    "dict_of_arrays": lambda x, y: (
        {"image": x.numpy(), "class": y.numpy()},
        {"forward": lambda model, batch: (model(batch["image"]), batch["class"])},
    ),
    "named_arguments": lambda x, y: (({"input": x}, y), {}),
    "named_tuples": lambda x, y: (
        [Pair(x[:7], y[:7]), Pair(x[7:], y[7:])].__iter__(),
        {"forward": lambda model, batch: (model(batch.x), batch.y)},
    ),
    "with_names": lambda x, y: (
        DataLoader([(x[i], int(y[i]), f"image {i}") for i in range(20)], batch_size=8),
        {"forward": lambda model, batch: (model(batch[0]), batch[1] + 0 * len(batch[2][0]))},
    ),
    "generator": lambda x, y: (((x[i : i + 6], y[i : i + 6]) for i in range(0, 20, 6)), {}),
    "objects": lambda x, y: (
        iter([SimpleNamespace(x=x[:8], y=y[:8]), SimpleNamespace(x=x[8:], y=y[8:])]),
        {"forward": lambda model, batch: (model(batch.x), batch.y), "weight": lambda batch: len(batch.y)},
    ),
    "bare": lambda x, y: (
        torch.cat([x, y[:, None]], dim=1),
        {"forward": lambda model, batch: (model(batch[:, :5]), batch[:, 5].long())},
    ),
}


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("form", FORMS)
def test_other_forms_give_the_same_matrix(form: str, kind: str):
    model, inputs, targets, names = mlp()
    data, options = FORMS[form](inputs, targets)
    operator = curvature_operator(model, F.cross_entropy, data, operator=kind, batch_size=6, **options)
    close(operator, DENSE[kind](model, F.cross_entropy, inputs, targets, names))
    expected = curvature_operator(model, F.cross_entropy, (inputs, targets)).gradient()
    torch.testing.assert_close(operator.gradient(), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_at_other_weights_in_every_form(form: str):
    model, inputs, targets, _ = mlp()
    weights = normal(66, seed=5)
    data, options = FORMS[form](inputs, targets)
    found = curvature_operator(model, F.cross_entropy, data, batch_size=6, **options).loss(weights)
    a, b, c = weights[:30].view(6, 5), weights[30:54].view(4, 6), weights[54:].view(3, 4)
    hidden = torch.tanh(F.linear(torch.tanh(F.linear(inputs, a, model[0].bias)), b, model[2].bias))
    expected = F.cross_entropy(F.linear(hidden, c, model[4].bias), targets)
    assert found == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_graph_stays_whole(kind: str):
    def passing(n: Net, x: Tensor, edges: Tensor) -> Tensor:
        return n.b(torch.tanh(torch.zeros(len(x), 6, dtype=x.dtype).index_add(0, edges[1], n.a(x)[edges[0]])))

    model = initialised(Net(passing, a=nn.Linear(5, 6), b=nn.Linear(6, 3)))
    graphs = [
        ((normal(count, 5, seed=count), torch.randint(count, (2, 15), generator=seeded(count))), labels(count, 3))
        for count in (8, 12)
    ]
    found = curvature_operator(model, F.cross_entropy, graphs[0], operator=kind, batch_size=3)
    dense = [DENSE[kind](model, F.cross_entropy, *graph, ["a.weight", "b.weight"]) for graph in graphs]
    close(found, dense[0])
    assert "mean over samples" not in found.checks
    both = curvature_operator(model, F.cross_entropy, iter(graphs), operator=kind)
    assert both.samples == 20
    close(both, 0.4 * dense[0] + 0.6 * dense[1])
    with pytest.raises(ValueError, match="samples= cannot draw from data whose parts have unequal lengths"):
        curvature_operator(model, F.cross_entropy, graphs[0], samples=3)


def test_numpy_floats_take_the_dtype_of_the_network():
    model, inputs, targets, _ = mlp()
    operator = curvature_operator(model.float(), F.cross_entropy, (inputs.numpy(), targets.numpy()))
    assert operator.data.parts[0][0].dtype == torch.float32
    assert read_samples((inputs.numpy(), targets.numpy()), CPU).parts[0][0].dtype == torch.float64


def test_samples_stay_where_they_are_and_batches_are_copies():
    model, inputs, targets, _ = mlp()
    operator = curvature_operator(model, F.cross_entropy, (inputs, targets), batch_size=6)
    assert operator.data.parts[0][0] is inputs
    batches = [batch for batch, _ in operator.batches()]
    assert [len(batch[1]) for batch in batches] == [6, 6, 6, 2]
    assert batches[0][0].data_ptr() != inputs.data_ptr()  # a network may change its input in place
    assert torch.equal(batches[3][0], inputs[18:])
    away = read_samples((inputs, targets), torch.device("meta"))
    assert away.parts[0][0] is inputs
    assert [x.device.type for x, _ in away.batches(15)] == ["meta", "meta"]


def test_one_call_predicts_from_dicts_without_a_loss_of_its_own():
    inputs, targets = texts(300)
    data = {"input_ids": inputs, "labels": targets}
    found, other = (
        predict_threshold(language_model(), loss, data, epsilon=0.05, steps=8) for loss in (None, over_words)
    )
    assert (found.threshold, found.lower, found.upper) == (other.threshold, other.lower, other.upper)
    assert (found.samples, found.checks) == (300, CHECKS)


# --- drawn samples ----------------------------------------------------------------------------------------------


class Counted(Dataset):
    def __init__(self, count: int = 1000):
        self.count, self.read = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return torch.full((5,), float(index)), index % 3


class Endless(IterableDataset):
    def __init__(self):
        self.read = 0

    def __iter__(self):
        while True:
            self.read += 1
            yield torch.full((5,), float(self.read)), self.read % 3


def numbers(data, **options) -> list[int]:
    read = read_samples(data, CPU, **options)
    return [int(value) for part in read.parts for value in part[0][:, 0]]


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: DataLoader(d, 32), lambda d: DataLoader(d, 32, shuffle=True)])
def test_no_more_samples_are_read_than_are_drawn(wrap):
    dataset = Counted()
    drawn = numbers(wrap(dataset), samples=50, seed=1)
    assert len(set(drawn)) == 50
    assert dataset.read == drawn
    assert max(drawn) > 800  # of all, not the first
    tensors = torch.arange(1000.0)[:, None].expand(-1, 5), torch.zeros(1000)
    assert drawn == numbers(wrap(Counted()), samples=50, seed=1) == numbers(tensors, samples=50, seed=1)
    assert drawn != numbers(wrap(Counted()), samples=50, seed=2)
    assert len(numbers(Counted(30), samples=50)) == 30


def test_a_loader_with_an_order_of_its_own_gives_its_first_samples():
    dataset = Counted()
    own = DataLoader(dataset, 32, sampler=SubsetRandomSampler(range(200), generator=seeded(0)))
    assert len(numbers(own, samples=50)) == 50
    assert len(dataset.read) <= 64
    assert max(dataset.read) < 200
    endless = Endless()
    assert numbers(DataLoader(endless, 8), samples=20) == list(range(1, 21))
    assert endless.read == 24
    assert numbers(Endless(), samples=20) == list(range(1, 21))
    batches = ((torch.full((4, 5), float(i)), torch.zeros(4)) for i in range(10))
    assert numbers(batches, samples=6) == [0, 0, 0, 0, 1, 1]
    assert float(next(batches)[0][0, 0]) == 2


@pytest.mark.parametrize("samples", [0, -1, 2.5, "many", True])
def test_samples_that_are_no_number_are_refused(samples):
    model, inputs, targets, _ = mlp()
    with pytest.raises(ValueError, match="samples must be a whole number of at least 1, got"):
        curvature_operator(model, F.cross_entropy, (inputs, targets), samples=samples)


def test_a_loader_that_the_memory_does_not_hold_is_refused_after_one_batch():
    class Huge(Counted):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            super().__getitem__(index)
            return torch.zeros(3, 224, 224).expand(3, 224, 224), 0

    dataset = Huge(2 * 10**6)
    with pytest.raises(ValueError, match=r"data takes about \d+ GiB and the host has \d+; give samples="):
        read_samples(DataLoader(dataset, 4), CPU)
    assert len(dataset.read) == 4
    assert len(read_samples(DataLoader(dataset, 4), CPU, samples=3)) == 3


# --- losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", ["ignore_index", "class_weights"])
def test_the_weight_of_a_batch_makes_the_mean(name: str, kind: str):
    model, inputs, targets, names = mlp()
    classes = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    if name == "ignore_index":
        targets[torch.arange(20) > 12] = -100
        loss, weight = F.cross_entropy, lambda y: (y != -100).sum()
    else:
        loss, weight = nn.CrossEntropyLoss(classes), lambda y: classes[y].sum()
    expected = DENSE[kind](model, loss, inputs, targets, names)
    with pytest.raises(CurvatureError, match=r"no mean over samples.*say with weight= how much a batch counts"):
        curvature_operator(model, loss, (inputs, targets), operator=kind)
    operator = curvature_operator(model, loss, (inputs, targets), operator=kind, batch_size=6, weight=weight)
    assert operator.checks == CHECKS
    close(operator, expected)
    gradient = curvature_operator(model, loss, (inputs, targets), batch_size=20, checks=False).gradient()
    torch.testing.assert_close(operator.gradient(), gradient, rtol=1e-10, atol=1e-13)


def test_a_wrong_weight_is_refused_by_its_numbers():
    model, inputs, targets, _ = mlp()
    targets[torch.arange(20) > 12] = -100
    with pytest.raises(CurvatureError, match=r"of which the mean, weighted with 36 and 196,"):
        curvature_operator(model, F.cross_entropy, (inputs, targets), weight=lambda y: len(y) ** 2)
    with pytest.raises(ValueError, match="weight must give a number of at least 0, got -20"):
        curvature_operator(model, F.cross_entropy, (inputs, targets), weight=lambda y: -len(y))
    with pytest.raises(ValueError, match="weight= gives 0 for every batch"):
        curvature_operator(model, F.cross_entropy, (inputs, targets), weight=lambda y: 0)


def objects(x: Tensor, y: Tensor):
    return iter([SimpleNamespace(x=x, y=y)])


REFUSED = {
    "no_weight_of_objects": (
        lambda x, y: objects(x, y), F.cross_entropy, {"forward": lambda m, b: (m(b.x), b.y)},
        ValueError, "a batch of SimpleNamespace does not tell how many samples it has; give weight=",
    ),
    "objects": (lambda x, y: objects(x, y), F.cross_entropy, {}, TypeError, "got SimpleNamespace; for any other"),
    "no_loss": (lambda x, y: (x, y), None, {}, TypeError, "for .input, target. give a loss_fn"),
    "no_loss_in_output": (
        lambda x, y: {"input": x}, None, {}, ValueError, r"output as the loss, and that has shape \(8, 3\); give",
    ),
    "output_without_loss": (
        lambda x, y: (x, y), None, {"forward": lambda m, b: {"out": m(b[0])}}, TypeError, "dict has no 'loss'",
    ),
    "forward_returns_output": (
        lambda x, y: (x, y), F.cross_entropy, {"forward": lambda m, b: m(b[0])},
        TypeError, r"forward must return \(output, target\), which loss_fn takes, got Tensor",
    ),
    "loss_per_sample": (
        lambda x, y: (x, y), nn.CrossEntropyLoss(reduction="none"), {},
        ValueError, r"loss must be one number, the mean over the samples, got shape \(8,\); use reduction='mean'",
    ),
    "loss_is_a_float": (
        lambda x, y: (x, y), lambda o, t: float(F.cross_entropy(o, t)), {},
        TypeError, "the loss must be a tensor that autograd can follow, got float",
    ),
    "loss_is_cut_off": (
        lambda x, y: (x, y), lambda o, t: F.cross_entropy(o.detach(), t), {},
        ValueError, "the loss does not depend on the prunable weights",
    ),
    "loss_is_a_name": (lambda x, y: (x, y), "mse", {}, TypeError, "loss_fn must be a function or None, got str 'mse'"),
    "swapped": (lambda x, y: F.cross_entropy, (1, 2), {}, TypeError, "got tuple; the order is model, loss_fn, data"),
    "forward_is_a_name": (lambda x, y: (x, y), F.mse_loss, {"forward": "x"}, TypeError, "forward must be a function"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(name: str):
    make, loss, options, error, message = REFUSED[name]
    model, inputs, targets, _ = mlp()
    with pytest.raises(error, match=message):
        curvature_operator(model, loss, make(inputs, targets), **options)


def test_batches_that_are_objects_have_a_default_epsilon():
    model, inputs, targets, _ = mlp()
    parts = [SimpleNamespace(x=inputs[i : i + 4], y=targets[i : i + 4]) for i in range(0, 20, 4)]
    options = {"forward": lambda network, b: (network(b.x), b.y), "weight": lambda b: len(b.y), "steps": 4}
    found = predict_threshold(model, F.cross_entropy, iter(parts), **options)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4)
    expected = predict_threshold(model, F.cross_entropy, loader, steps=4)
    assert found.epsilon == pytest.approx(expected.epsilon, rel=1e-9)
    assert found.threshold == expected.threshold


def test_the_ggn_needs_one_tensor_and_says_how_to_choose_it():
    model = initialised(Net(lambda n, x: {"out": n.a(x), "aux": x}, a=nn.Linear(5, 3)))
    data, loss = (normal(20, 5), labels(20, 3)), lambda output, y: F.cross_entropy(output["out"], y)
    with pytest.raises(TypeError, match="one tensor as output, got dict; choose the tensor with forward="):
        curvature_operator(model, loss, data, operator="ggn")
    hessian = matrix_of(curvature_operator(model, loss, data))
    ggn = curvature_operator(
        model, F.cross_entropy, data, operator="ggn", forward=lambda network, b: (network(b[0])["out"], b[1])
    )
    close(ggn, hessian)  # the network is linear in its weights


def test_missing_values_in_a_later_batch_are_numbered_and_named():
    model, inputs, targets, _ = mlp()
    inputs[13, 2] = float("nan")
    batches = iter([{"input": inputs[:8], "labels": targets[:8]}, {"input": inputs[8:], "labels": targets[8:]}])
    with pytest.raises(FloatingPointError, match="1 of 20 samples in their input, the first is sample 13"):
        curvature_operator(model, F.cross_entropy, batches)


def test_a_forward_pass_that_differentiates_in_its_inputs_has_a_default_epsilon():
    def force(n: Net, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return torch.autograd.grad(n.b(torch.tanh(n.a(x))).sum(), x, create_graph=True)[0]

    model = initialised(Net(force, a=nn.Linear(5, 6), b=nn.Linear(6, 1)))
    data = DataLoader(TensorDataset(normal(64, 5), normal(64, 5, seed=1)), batch_size=4)
    assert predict_threshold(model, F.mse_loss, data, steps=4).epsilon > 0


# --- what PyTorch says itself -----------------------------------------------------------------------------------


def hard(n: Net, x: Tensor) -> Tensor:
    return n.b(F.hardsigmoid(n.a(x)))


def by_word(n: Net, x: Tensor) -> Tensor:
    return n.b(torch.tanh(n.a(x)))[:, None].expand(-1, 4, -1)


@pytest.mark.parametrize(
    ("function", "loss", "change", "error", "message"),
    [
        (hard, F.cross_entropy, None, CurvatureError, r"uses hardsigmoid, .*once and not twice.*relu6\(x \+ 3\) / 6"),
        (None, F.multi_margin_loss, None, CurvatureError, "uses multi_margin_loss, which PyTorch differentiates once"),
        (None, F.cross_entropy, lambda x, y: (x.float(), y), ValueError, r"do not have the dtype.*inputs.float\(\)"),
        (None, F.cross_entropy, lambda x, y: (x[:, 1:], y), ValueError, "data do not fit the network"),
        (None, F.cross_entropy, lambda x, y: (x.to_sparse(), y), ValueError, r"sparse tensors, .* take to_dense\(\)"),
        (None, F.cross_entropy, lambda x, y: (x.to("meta"), y), ValueError, "the data are on the meta device"),
        (None, F.cross_entropy, lambda x, y: (x, y[:, None]), ValueError, "loss_fn cannot take the targets"),
        (
            by_word, F.cross_entropy, lambda x, y: (x, y[:, None].expand(-1, 4)),
            ValueError, r"classes along axis 1 .*output.flatten\(0, 1\), target.flatten\(\)",
        ),
    ],
    ids=["hardsigmoid", "multi_margin", "dtype", "features", "sparse", "meta", "targets", "words"],
)  # fmt: skip
@pytest.mark.parametrize("kind", OPERATORS)
def test_pytorchs_own_errors_say_what_to_do(kind: str, function, loss, change, error, message: str):
    model = initialised(Net(function or (lambda n, x: n.b(torch.tanh(n.a(x)))), a=nn.Linear(5, 6), b=nn.Linear(6, 3)))
    data = normal(20, 5), labels(20, 3)
    with pytest.raises(error, match=message):
        curvature_operator(model, loss, change(*data) if change else data, operator=kind)


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_forward_pass_with_transforms_of_torch_func(kind: str):
    def through_transforms(n: Net, x: Tensor) -> Tensor:
        slope = torch.func.vmap(torch.func.grad(lambda z: torch.tanh(n.a(z)).square().sum()))(x)
        return n.b(slope)

    def by_hand(n: Net, x: Tensor) -> Tensor:
        t = torch.tanh(n.a(x))
        return n.b((2 * t * (1 - t**2)) @ n.a.weight)

    layers = {"a": nn.Linear(5, 4), "b": nn.Linear(5, 3)}
    operators = [
        curvature_operator(
            initialised(Net(function, **layers)), F.cross_entropy, (normal(20, 5), labels(20, 3)), operator=kind
        )
        for function in (through_transforms, by_hand)
    ]
    close(operators[0], matrix_of(operators[1]))
