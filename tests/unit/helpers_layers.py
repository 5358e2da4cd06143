"""Networks whose layers the tape sees in every manner, and how often it sees them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from .helpers_networks import Net, normal

tanh = torch.tanh

SAMPLES = 5


def convolution(kind: type[nn.Module], size: tuple[int, ...], *arguments, **options):
    """The convolution between two others of kernel 1, so that it has a derivative in its input too."""
    layer = kind(*arguments, **options)
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
    channels, outputs = layer.in_channels, layer.out_channels
    model = nn.Sequential(plain(channels, channels, 1), nn.Tanh(), layer, nn.Softplus(), plain(outputs, 2, 1))
    return model, normal(SAMPLES, channels, *size), [0, 1, 2]


def two(function: Callable, uses: list[int], *shape: int, **layers: nn.Module):
    layers = {"a": nn.Linear(4, 3), "b": nn.Linear(3, 2)} | layers
    return Net(function, **layers), normal(SAMPLES, *(shape or (4,))), uses


def in_place_residual(net: Net, x: Tensor) -> Tensor:
    hidden = tanh(net.a(x))
    out = net.c(hidden)
    out += hidden
    F.relu(out, inplace=True)
    result = net.b(out)
    result[:, 0] *= 2
    return result


def force(net: Net, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net.b(tanh(net.a(x))).square().sum(), x, create_graph=True)[0]


def second_derivative(net: Net, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(net.b(tanh(net.a(x))).square().sum(), x, create_graph=True)
    return torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)[0]


def adapted(net: Net, x: Tensor) -> Tensor:
    """One gradient step inside the forward pass."""
    loss = sum(net.b(tanh(net.a(sample[None]))).square().sum() for sample in torch.eye(4, dtype=x.dtype))
    (gradient,) = torch.autograd.grad(loss, net.a.weight, create_graph=True)
    return net.b(tanh(F.linear(x, net.a.weight - 0.1 * gradient)))


def features_without_gradient(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = tanh(net.a(x))
    return net.b(net.c(hidden))


def scripted_source(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(torch.tanh(x), weight)


@cache
def scripted():
    return torch.jit.script(scripted_source)


def traced():
    module = torch.jit.trace(nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double(), normal(2, 3))
    return two(lambda n, x: n.b(n.c(n.a(x))), [0, 1], c=module)


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    return model


def changed_by_hook() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output.square())
    model[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return model


def parametrised(wrap: Callable):
    """The first layer's weight is computed, and so refused."""
    return nn.Sequential(wrap(nn.Linear(4, 3).double()), nn.Tanh(), nn.Linear(3, 2)), normal(SAMPLES, 4), [0]


def norms(**options):
    first, second = nn.BatchNorm1d(3, **options), nn.BatchNorm1d(2, **options)
    return nn.Sequential(nn.Linear(4, 3), first, nn.Tanh(), nn.Linear(3, 2), second), normal(SAMPLES, 4), [0, 1]


def transformer():
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 3, batch_first=True), 2, enable_nested_tensor=False
    )
    # The attention's own linear maps are inside a kernel; the other two of each layer are seen.
    return nn.Sequential(encoder, nn.Linear(4, 2)), normal(SAMPLES, 3, 4), [1, 2, 4, 5, 6]


class Conv1D(nn.Module):
    """The linear layer of Hugging Face's GPT-2, whose weight is (inputs, outputs)."""

    def __init__(self, outputs: int, inputs: int):
        super().__init__()
        self.nf, self.nx = outputs, inputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class Experts(nn.Module):
    """A mixture whose experts are bare parameters."""

    def __init__(self, experts: int, inputs: int, hidden: int):
        super().__init__()
        self.router = nn.Linear(inputs, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, inputs, hidden) / inputs**0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, inputs) / hidden**0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = tanh(torch.einsum("bi,eih->beh", x, self.up))
        return torch.einsum("be,beh,ehi->bi", self.router(x).softmax(dim=1), hidden, self.down)


def language_model(tie: bool = True) -> tuple[nn.Module, Tensor]:
    """Tokens to logits by way of attention; the head is the embedding."""
    model = Net(
        lambda n, x: n.head(tanh(n.block(n.embedding(x) + n.positions)).mean(dim=1)),
        embedding=nn.Embedding(7, 4),
        block=nn.TransformerEncoderLayer(4, 2, 3, batch_first=True),
        norm=nn.LayerNorm([3, 4]),
        head=nn.Linear(4, 7, bias=False),
    )
    model.positions = nn.Parameter(torch.randn(1, 3, 4))
    if tie:
        model.head.weight = model.embedding.weight
    return model, torch.randint(7, (SAMPLES, 3))


def attention(queries: Callable, **options):
    layer = nn.MultiheadAttention(4, 2, batch_first=True, **options)
    uses = [sum(parameter.ndim > 1 for parameter in layer.parameters())]
    return two(lambda n, x: n.b(n.a(*queries(x))[0]), uses, 3, 4, a=layer, b=Linear(4, 2))


def recurrent(layer: nn.Module, uses: list[int], features: int):
    return two(lambda n, x: n.b(n.a(tanh(n.c(x)))[0]), uses, 3, 4, a=layer, b=Linear(features, 2), c=Linear(4, 4))


C1, C2, T1, T2, Linear = nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear

# Network, inputs, and which prunable weights the tape sees, once for each use.
CASES: dict[str, Callable] = {
    "conv1d": partial(convolution, C1, (9,), 2, 3, 3, stride=2, dilation=2, bias=False),
    "conv1d_odd_same": lambda: (*convolution(C1, (5,), 2, 3, 4, padding="same")[:2], [0, 2]),
    "conv1d_circular": partial(convolution, C1, (5,), 2, 3, 3, padding=1, padding_mode="circular"),
    "conv2d_groups": partial(convolution, C2, (5, 4), 4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2),
    "conv2d_depthwise": partial(convolution, C2, (5, 5), 3, 6, 3, groups=3, padding="same", dilation=2),
    "conv2d_reflect": partial(convolution, C2, (4, 4), 2, 2, 3, padding=1, padding_mode="reflect"),
    "conv3d": partial(convolution, nn.Conv3d, (3, 3, 3), 2, 2, 2, padding="valid"),
    "transposed1d": partial(convolution, T1, (4,), 2, 3, 3, stride=2, padding=1, output_padding=1),
    "transposed2d": partial(convolution, T2, (3, 3), 4, 2, (3, 2), stride=2, groups=2, dilation=(1, 2)),
    "transposed3d": partial(convolution, nn.ConvTranspose3d, (2, 2, 2), 2, 2, 2, bias=False),
    "channels_last": lambda: two(
        lambda n, x: n.b(tanh(n.a(x.to(memory_format=torch.channels_last)))), [0, 1], 2, 4, 4,
        a=C2(2, 3, 2), b=C2(3, 2, 2),
    ),
    "unbatched_conv": lambda: two(
        lambda n, x: n.b(torch.stack([tanh(n.a(y)) for y in x]).flatten(1)), [1], 2, 5, a=C1(2, 1, 3)
    ),
    "linear_1d": lambda: two(lambda n, x: torch.stack([n.b(tanh(n.a(y))) for y in x]), []),
    "linear_3d": lambda: two(lambda n, x: n.b(tanh(n.a(x))), [0, 1], 2, 4),
    "keywords": lambda: two(
        lambda n, x: F.linear(weight=n.b.weight, input=tanh(F.linear(x, weight=n.a.weight, bias=n.a.bias))), [0, 1]
    ),
    "conv_keywords": lambda: two(
        lambda n, x: F.conv_transpose1d(
            input=tanh(F.conv1d(input=x, weight=n.a.weight, stride=[2])), weight=n.b.weight, padding=(1,)
        ),
        [0, 1], 2, 7, a=C1(2, 3, 2), b=T1(3, 2, 3),
    ),
    "used_twice": lambda: two(lambda n, x: n.b(tanh(n.c(tanh(n.c(tanh(n.a(x))))))), [0, 1, 2, 2], c=Linear(3, 3)),
    "module_and_function": lambda: two(
        lambda n, x: n.b(tanh(n.a(x))) + F.linear(x, n.a.weight * 2)[:, :2] ** 2, [0, 1]
    ),
    "weight_as_input": lambda: two(
        lambda n, x: x @ tanh(F.linear(n.b.weight, n.a.weight, n.b.weight[0])).t(), [0], a=Linear(4, 4), b=Linear(4, 3)
    ),
    "conv_bias_of_weight": lambda: two(
        lambda n, x: n.b(tanh(F.conv1d(x, n.a.weight, n.b.weight[0, :, 0]))), [0, 1], 2, 4, a=C1(2, 3, 2), b=C1(3, 2, 1)
    ),
    "tied": lambda: (tied(), normal(SAMPLES, 4), [0, 0, 1]),
    "hooks": lambda: (changed_by_hook(), normal(SAMPLES, 4), [0, 1]),
    "in_place_relu": lambda: (
        nn.Sequential(Linear(4, 5), nn.ReLU(True), Linear(5, 3), nn.ReLU(True), Linear(3, 2)),
        normal(SAMPLES, 4), [0, 1, 2],
    ),
    "in_place_residual": lambda: two(in_place_residual, [0, 1, 2], c=Linear(3, 3)),
    "batch_norm": norms,
    "batch_norm_plain": partial(norms, affine=False),
    "batch_norm_of_the_batch": partial(norms, track_running_stats=False),
    "attention": lambda: two(
        lambda n, x: n.b(n.a(x, x, x)[0]), [1], 3, 4, a=nn.MultiheadAttention(4, 2, batch_first=True), b=Linear(4, 2)
    ),
    "fused_attention": lambda: two(
        lambda n, x: n.b(F.scaled_dot_product_attention(n.a(x), x, x)), [0, 1], 3, 2, 4, a=Linear(4, 4), b=Linear(4, 2)
    ),
    "transformer": transformer,
    "lstm": lambda: two(
        lambda n, x: n.b(n.a(tanh(n.c(x)))[0]), [0, 1], 3, 4, a=nn.LSTM(4, 3, batch_first=True), c=Linear(4, 4)
    ),
    "force": lambda: two(force, [0, 1]),
    "conv_force": lambda: two(force, [0, 1], 2, 5, a=C1(2, 3, 3), b=T1(3, 2, 2, stride=2)),
    "conv_second_derivative": lambda: two(
        second_derivative, None, 2, 3, 3, a=C2(2, 4, 2, groups=2), b=T2(4, 2, 2, stride=2, groups=2)
    ),
    "adapted": lambda: two(adapted, None),
    "checkpoint": lambda: two(
        lambda n, x: n.b(checkpoint(n.c, n.a(x), use_reentrant=False)), [0, 1], 2, 4,
        a=C1(2, 2, 2), b=C1(2, 2, 1), c=nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), C1(2, 2, 2)),
    ),
    "vmap": lambda: two(lambda n, x: torch.vmap(lambda y: n.b(tanh(n.a(y[None])))[0])(x), []),
    "functional_call": lambda: two(
        lambda n, x: n.b(torch.func.functional_call(n.a, {"weight": tanh(n.a.weight)}, (x,))), [1]
    ),
    "no_grad": lambda: two(features_without_gradient, [1, 2], c=Linear(3, 3)),
    "unused_layer": lambda: two(lambda n, x: n.b(tanh(n.a(x))), [0, 1], c=Linear(3, 3)),
    "unused_output": lambda: two(lambda n, x: (n.c(n.a(x)), n.b(tanh(n.a(x))))[1], [0, 1], c=Linear(3, 3)),
    "scripted_function": lambda: two(lambda n, x: scripted()(n.a(x), n.b.weight), [0]),
    "traced_module": traced,
    "weight_norm": partial(parametrised, parametrizations.weight_norm),
    "spectral_norm": partial(parametrised, parametrizations.spectral_norm),
    "old_weight_norm": partial(parametrised, nn.utils.weight_norm),
    "old_spectral_norm": partial(parametrised, nn.utils.spectral_norm),
    "all_of_attention": partial(attention, lambda x: (x, x, x)),
    "all_of_cross_attention": partial(attention, lambda x: (x, x[:, :2], x[:, 1:] ** 2)),
    "all_of_attention_in_parts": partial(attention, lambda x: (x, x[..., :3], x[..., 1:3]), kdim=3, vdim=2),
    "all_of_lstm": lambda: recurrent(nn.LSTM(4, 1, 2, batch_first=True), [4, 5], 1),
    "all_of_gru": lambda: recurrent(nn.GRU(4, 1, bidirectional=True, batch_first=True), [4, 5], 2),
    "all_of_conv1d_of_transformers": lambda: two(lambda n, x: n.b(tanh(n.a(x))), [1], 2, 4, a=Conv1D(3, 4)),
    "all_of_experts": lambda: two(lambda n, x: n.b(n.a(x)), [2, 3], a=Experts(2, 4, 3), b=Linear(4, 2)),
    "all_of_language_model": lambda: (*language_model(), [2, 3, 4]),
    "input_of_attention": lambda: (*attention(lambda x: (x, x, x))[:2], []),
    "control_flow": lambda: two(lambda n, x: n.b(tanh(n.a(x))) if float(n.a.weight.detach()[0, 0]) < 9 else x, [0, 1]),
}  # fmt: skip


# By default the weights of linear and convolution layers.
PRUNABLE = (
    dict.fromkeys(("weight_norm", "spectral_norm", "old_weight_norm", "old_spectral_norm"), "2.weight")
    | {name: "*" for name in CASES if name.startswith("all_of_")}
    | {"input_of_attention": "*.in_proj_weight"}
)


def made(name: str) -> tuple[nn.Module, tuple[Tensor], Tensor, list[int] | None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, inputs, uses = (CASES | FORWARD_MODE)[name]()
    model = model.double().eval()
    for number, (_, buffer) in enumerate(model.named_buffers()):
        if buffer.ndim:  # running statistics: means of any sign would do, variances are positive
            buffer.copy_(0.5 + normal(*buffer.shape, seed=number).square())
    targets = normal(*model(inputs).shape, seed=1)
    return model, (inputs,), targets, uses


def dual(net: Net, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(net.b(tanh(net.a(forward_ad.make_dual(x, x.square()))))).tangent


FORWARD_MODE = {
    "jvp": lambda: two(lambda n, x: torch.func.jvp(lambda y: n.b(tanh(n.a(y))), (x,), (x,))[1], []),
    "dual_numbers": lambda: two(dual, []),
}
