"""Networks as people have them: products against double backward, and the way from a prediction to a pruned file.

Each is trained for a moment on data that can be learnt. Those of transformers are built from small configurations.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models.convnext import CNBlockConfig

import gwprune
from gwprune.curvature.operator import OPERATORS, curvature_operator

from .helpers_networks import seeded

TEXT = (
    "the limit of pruning is where the loss begins to rise: below it the weights that go are weights that the network "
    "does not need, above it each weight that goes takes something with it. the width of the set of good weights tells "
    "where that is, and the width is known from the curvature of the loss alone. so the limit is known before a single "
    "weight is set to zero, and a measurement shows whether it is where it was said to be. what is small is not always "
    "what is of no use, and what is large is not always what matters: the curvature tells the two from each other. "
)
CHARACTERS = sorted(set(TEXT))
VOCABULARY = len(CHARACTERS)


@dataclass
class Case:
    """A trained network and what a user would give with it.

    Attributes:
        build: makes the network, untrained.
        data: (input, target) or a dict, all samples.
        loss: of the network on data, in plain PyTorch: what the library must agree with.
        loss_fn: as given to the library; None: the network computes its loss.
        options: for the library.
        chosen: which parameters are prunable, by a rule of its own.
        steps: of training.
        rate: of training.
    """

    build: Callable[[], nn.Module]
    data: Any
    loss: Callable[[nn.Module, Any], Tensor]
    loss_fn: Callable[[Any, Any], Tensor] | None
    options: dict[str, Any] = field(default_factory=dict)
    chosen: Callable[[str, nn.Parameter], bool] = lambda name, parameter: True
    steps: int = 40
    rate: float = 3e-3

    @property
    def inputs(self) -> Any:
        """What the network is given, without the labels."""
        if isinstance(self.data, dict):
            return {key: value for key, value in self.data.items() if key != "labels"}
        return self.data[0]


def part(data: Any, index: Any) -> Any:
    if isinstance(data, dict):
        return {key: value[index] for key, value in data.items()}
    return tuple(value[index] for value in data) if isinstance(data, tuple) else data[index]


def logits_of(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output["logits"] if isinstance(output, dict) else output.logits


# --- language models ----------------------------------------------------------------------------------------------


def windows(length: int = 24, count: int = 64) -> Tensor:
    codes = torch.tensor([CHARACTERS.index(character) for character in TEXT])
    starts = torch.randint(len(codes) - length, (count,), generator=seeded(1))
    return torch.stack([codes[start : start + length] for start in starts])


def over_characters(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm_1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True, dropout_p=rate)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width)), rate)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm_2(x)))), rate)


class CharacterGPT(nn.Module):
    """Tied embedding, learnt positions, fused attention, dropout, layer norm."""

    def __init__(self, width: int = 32, blocks: int = 2, heads: int = 4, length: int = 24):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(length, width)
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(width, heads, 0.1) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


def character_gpt() -> Case:
    text = windows(25)
    return Case(
        CharacterGPT,
        (text[:, :-1], text[:, 1:]),
        lambda model, data: over_characters(model(data[0]), data[1]),
        over_characters,
        chosen=lambda name, parameter: name.startswith("blocks") and parameter.ndim > 1,
        steps=80,
    )


def next_word_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """As transformers has it: labels are the inputs, shifted here, in float32; -100 does not count."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


def of_transformers(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """The library's own, built from a configuration."""
    library = pytest.importorskip("transformers")
    return lambda: getattr(library, model)(getattr(library, config)(**options))


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {"vocab_size": VOCABULARY, "use_cache": False, "max_position_embeddings": 32}


def padded(length: int = 20) -> dict[str, Tensor]:
    """Sentences of unequal length, as a tokeniser and a collator for language models make them."""
    text = windows(length)
    mask = (torch.arange(length) < torch.randint(length // 2, length + 1, (len(text), 1), generator=seeded(2))).long()
    return {"input_ids": text * mask, "attention_mask": mask, "labels": text.masked_fill(mask == 0, -100)}


def counted(labels: Tensor) -> Tensor:
    return (labels[:, 1:] != -100).sum()


def llama() -> Case:
    return Case(
        of_transformers("LlamaForCausalLM", "LlamaConfig", **WORDS, **SIZES, num_key_value_heads=2),
        padded(),
        lambda model, data: model(**data).loss,
        None,
        {"weight": counted},
        chosen=lambda name, parameter: "_proj" in name or "lm_head" in name,
        steps=120,
    )


def mixture_of_experts() -> Case:
    """Each word goes through two of four experts, which are slices of bare parameters."""
    text = windows(20)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    return Case(
        of_transformers("MixtralForCausalLM", "MixtralConfig", **WORDS, **SIZES, **experts),
        {"input_ids": text, "labels": text.clone()},
        lambda model, data: model(**data).loss,
        None,
        {"prunable": "*"},
        chosen=lambda name, parameter: parameter.ndim > 1 and "embed_tokens" not in name,
        steps=120,
    )


def gpt2() -> Case:
    """Its linear layers are ``Conv1D``, and its head is the embedding."""
    text = windows(20)
    words = {"vocab_size": VOCABULARY, "n_positions": 32, "loss_type": "ForCausalLMLoss"}
    return Case(
        of_transformers("GPT2LMHeadModel", "GPT2Config", **words, n_embd=32, n_layer=2, n_head=4),
        {"input_ids": text, "labels": text.clone()},
        lambda model, data: model(**data)["loss"],
        None,
        {"prunable": "transformer.h.*"},
        chosen=lambda name, parameter: ".h." in name and parameter.ndim > 1,
        steps=80,
    )


def t5() -> Case:
    """The first characters of each text, from all of them, by an encoder and a decoder."""
    data = padded()
    target = data["input_ids"][:, :8]
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return Case(
        of_transformers("T5ForConditionalGeneration", "T5Config", vocab_size=VOCABULARY, **sizes),
        data | {"decoder_input_ids": F.pad(target, (1, -1)), "labels": target.clone()},
        lambda model, data: model(**data).loss,
        over_characters,
        chosen=lambda name, parameter: parameter.ndim > 1 and "shared" not in name and "bias" not in name,
    )


# --- a classifier of texts ------------------------------------------------------------------------------------------


def bert() -> Case:
    data = padded()
    inputs = data["input_ids"]
    kinds = torch.zeros_like(inputs)
    few = (inputs == CHARACTERS.index("e")).sum(dim=1)
    data |= {"token_type_ids": kinds, "labels": (few // 2).clamp(max=2)}
    return Case(
        of_transformers("BertForSequenceClassification", "BertConfig", **WORDS, **SIZES, num_labels=3),
        data,
        lambda model, data: model(**data).loss,
        F.cross_entropy,
        chosen=lambda name, parameter: parameter.ndim > 1 and "embeddings" not in name,
        steps=60,
    )


# --- images ---------------------------------------------------------------------------------------------------------


def images(size: int = 16, count: int = 48, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Noise with a bright corner, which is the class."""
    target = torch.randint(classes, (count,), generator=seeded(4))
    inputs = torch.randn(count, 3, size, size, generator=seeded(5))
    half = size // 2
    for image, corner in zip(inputs, target.tolist(), strict=True):
        image[:, half * (corner // 2) :][:, :half, half * (corner % 2) :][..., :half] += 1
    return inputs, target


def classified(build: Callable[[], nn.Module], **options: Any) -> Case:
    return Case(
        build,
        images(),
        lambda model, data: F.cross_entropy(model(data[0]), data[1]),
        F.cross_entropy,
        options,
        chosen=lambda name, parameter: parameter.squeeze().ndim > 1 and "pos_embedding" not in name,
    )


def vision_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=4
    )


def vit() -> Case:
    inputs, target = images()
    return Case(
        of_transformers("ViTForImageClassification", "ViTConfig", **SIZES, image_size=16, patch_size=4, num_labels=4),
        {"pixel_values": inputs, "labels": target},
        lambda model, data: model(**data).loss,
        F.cross_entropy,
        chosen=lambda name, parameter: parameter.ndim > 1 and not name.endswith(("cls_token", "position_embeddings")),
    )


def convnext() -> nn.Module:
    blocks = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)]
    return torchvision.models.ConvNeXt(blocks, stochastic_depth_prob=0.1, num_classes=4)


class Segmenter(nn.Module):
    """Down and up again, with a way past that."""

    def __init__(self, classes: int = 3, width: int = 12):
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.down = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1), nn.GroupNorm(4, 2 * width)
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.out = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        return self.out(torch.cat([x, self.up(F.silu(self.down(x)))], dim=1))


VOID = 255


def pixel_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, ignore_index=VOID)


def segmentation() -> Case:
    inputs, _ = images()
    target = F.avg_pool2d(inputs.mean(dim=1, keepdim=True), 5, 1, 2).squeeze(1)
    target = torch.bucketize(target, torch.tensor([0.0, 0.5]))
    target[:, :, 0] = VOID  # a border that nobody has labelled
    target[::3, 0] = VOID  # in some images a wider one, so that images do not count alike
    return Case(
        Segmenter,
        (inputs, target),
        lambda model, data: pixel_loss(model(data[0]), data[1]),
        pixel_loss,
        {"weight": lambda y: (y != VOID).sum()},
        chosen=lambda name, parameter: parameter.ndim > 1,
        steps=60,
        rate=1e-2,
    )


# --- and the rest ---------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.tokens(x))[0])


def lstm() -> Case:
    text = windows(17)
    return Case(
        Recurrent,
        (text[:, :-1], text[:, 1:]),
        lambda model, data: over_characters(model(data[0]), data[1]),
        over_characters,
        {"prunable": "*"},
        chosen=lambda name, parameter: parameter.ndim > 1 and "tokens" not in name,
        steps=80,
        rate=1e-2,
    )


def curve() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(160, 8, generator=seeded(6))
    return inputs, (inputs[:, :2].sin().prod(dim=1, keepdim=True) + inputs[:, 2:3] / 2)


def dense_layers(*sizes: int) -> nn.Sequential:
    layers = []
    for first, second in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(first, second), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def squares(build: Callable[[], nn.Module], **options: Any) -> Case:
    return Case(
        build,
        curve(),
        lambda model, data: F.mse_loss(model(data[0]), data[1]),
        F.mse_loss,
        options,
        chosen=lambda name, parameter: parameter.ndim > 1,
        steps=150,
    )


class LoRA(nn.Module):
    """A frozen linear layer with an adapter of low rank, with the names of the library peft."""

    def __init__(self, base_layer: nn.Linear, rank: int = 2, scale: float = 2.0):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_A = nn.Linear(base_layer.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base_layer.out_features, bias=False)
        self.scale = scale
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scale * self.lora_B(self.lora_A(x))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        self.base_layer.weight += self.scale * self.lora_B.weight @ self.lora_A.weight
        return self.base_layer


def adapted() -> nn.Sequential:
    """With adapters on layers that stay frozen."""
    return nn.Sequential(
        *(LoRA(layer) if isinstance(layer, nn.Linear) else layer for layer in dense_layers(8, 96, 96, 1))
    )


CASES: dict[str, Callable[[], Case]] = {
    "character_gpt": character_gpt,
    "bert": bert,
    "llama": llama,
    "gpt2": gpt2,
    "t5": t5,
    "vit": vit,
    "vision_transformer": lambda: classified(vision_transformer, prunable="*"),
    "convnext": lambda: classified(convnext),
    "segmentation": segmentation,
    "lstm": lstm,
    "regression": lambda: squares(lambda: dense_layers(8, 96, 96, 1)),
    "lora": lambda: squares(adapted),
    "mixture_of_experts": mixture_of_experts,
}


@cache
def made(name: str) -> tuple[Case, nn.Module]:
    """The case, and its network after some steps of training, in eval mode."""
    case = CASES[name]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = case.build()
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=case.rate)
        count = len(next(iter(case.data.values() if isinstance(case.data, dict) else case.data)))
        for _ in range(case.steps):
            optimizer.zero_grad()
            case.loss(model, part(case.data, torch.randint(count, (16,)))).backward()
            optimizer.step()
    if name == "lora":
        model = nn.Sequential(*(layer.merged() if isinstance(layer, LoRA) else layer for layer in model))
    return case, model.eval()


def given(name: str) -> tuple[Case, nn.Module]:
    """A copy to spoil."""
    case, model = made(name)
    return case, copy.deepcopy(model)


# --- products -------------------------------------------------------------------------------------------------------


def doubled(data: Any) -> Any:
    """A few samples in float64."""
    few = part(data, slice(0, 5))
    items = few.items() if isinstance(few, dict) else enumerate(few)
    found = {key: value.double() if value.is_floating_point() else value for key, value in items}
    return found if isinstance(few, dict) else tuple(found.values())


def double_backward(case: Case, model: nn.Module, data: Any, weights: list[Tensor], vector: list[Tensor]):
    with sdpa_kernel(SDPBackend.MATH):
        gradient = torch.autograd.grad(case.loss(model, data), weights, create_graph=True)
        along = sum((g * v).sum() for g, v in zip(gradient, vector, strict=True))
        return torch.autograd.grad(along, weights)


def gauss_newton(case: Case, model: nn.Module, data: Any, weights: list[Tensor], vector: list[Tensor]):
    with sdpa_kernel(SDPBackend.MATH):
        if isinstance(data, dict):
            output = logits_of(model(**{key: value for key, value in data.items() if key != "labels"}))
            of, target = case.loss_fn or next_word_loss, data["labels"]
        else:
            output, of, target = model(data[0]), case.loss_fn, data[1]
        dummy = torch.zeros_like(output, requires_grad=True)
        pulled = torch.autograd.grad(output, weights, dummy, create_graph=True)
        along = sum((g * v).sum() for g, v in zip(pulled, vector, strict=True))
        (tangent,) = torch.autograd.grad(along, dummy, retain_graph=True)
        head = output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(of(head, target), head, create_graph=True)
        (cotangent,) = torch.autograd.grad(slope, head, tangent)
        return torch.autograd.grad(output, weights, cotangent)


ORACLES = {"hessian": double_backward, "ggn": gauss_newton}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_double_backward(name: str, operator: str):
    case, model = given(name)
    if name == "mixture_of_experts":
        model.set_experts_implementation("eager")  # its kernel takes no float64
    model, data = model.double().requires_grad_(), doubled(case.data)
    named = {key: weight for key, weight in model.named_parameters() if case.chosen(key, weight)}
    vector = [torch.randn(weight.shape, generator=seeded(3), dtype=weight.dtype) for weight in named.values()]
    expected = ORACLES[operator](case, model, data, list(named.values()), vector)
    matrix = curvature_operator(model, case.loss_fn, data, operator=operator, **case.options)
    assert sorted(matrix.prunable.names) == sorted(named)
    flat = dict(zip(named, vector, strict=True)), dict(zip(named, expected, strict=True))
    vector, expected = (matrix.prunable.flatten([each[key] for key in matrix.prunable.names]) for each in flat)
    torch.testing.assert_close(matrix @ vector, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


# --- from the prediction to the pruned file -------------------------------------------------------------------------


def without_smallest(model: nn.Module, weights: list[Tensor], sparsity: float) -> tuple[nn.Module, list[Tensor]]:
    """A pruned copy, and what was removed; the smallest of all weights together, by sorting."""
    own = dict(model.named_parameters())
    names = [name for name, weight in own.items() if any(weight is other for other in weights)]
    flat = torch.cat([own[name].detach().flatten() for name in names])
    limit = flat.abs().sort().values[: math.ceil(sparsity * len(flat))].max()
    result = copy.deepcopy(model)
    removed = []
    with torch.no_grad():
        for name, weight in result.named_parameters():
            if name in names:
                removed.append(weight.masked_fill(weight.abs() > limit, 0))
                weight -= removed[-1]
    return result, removed


def value(case: Case, model: nn.Module) -> float:
    with torch.no_grad():
        return float(case.loss(model, case.data))


def output_of(model: nn.Module, case: Case) -> Tensor:
    with torch.no_grad():
        output = model(**case.inputs) if isinstance(case.inputs, dict) else model(case.inputs)
    return logits_of(output)


@pytest.mark.parametrize("name", CASES)
def test_from_the_prediction_to_a_pruned_file(name: str, tmp_path):
    case, model = given(name)
    weights = [weight for key, weight in model.named_parameters() if case.chosen(key, weight)]
    dimension = sum(weight.numel() for weight in weights)
    state, dense = copy.deepcopy(model.state_dict()), value(case, model)
    assert dimension > 4000

    # The prediction.
    p = gwprune.predict_threshold(model, case.loss_fn, case.data, epsilon="2%", steps=6, **case.options)
    assert p.dimension == dimension
    assert p.epsilon == pytest.approx(0.02 * dense, rel=1e-4)
    assert 0 <= p.lower <= p.threshold <= p.upper <= 1
    p.save(tmp_path / "prediction.npz")
    assert gwprune.load_prediction(tmp_path / "prediction.npz").to_dict() == p.to_dict()

    # Beside it, where the local quadratic model reaches epsilon.
    options = case.options | {"predictor": "quadratic", "tolerance": 1e-3, "checks": False}
    q = gwprune.predict_threshold(model, case.loss_fn, case.data, epsilon=p.epsilon, **options)
    assert p.quadratic == pytest.approx(q.threshold, abs=1e-3)
    other = copy.deepcopy(model).requires_grad_()  # what is frozen stays so
    own = [weight for key, weight in other.named_parameters() if case.chosen(key, weight)]
    slope = torch.autograd.grad(case.loss(other, case.data), own)
    rises = []
    for sparsity in (q.lower, q.upper):
        _, removed = without_smallest(model, weights, sparsity)
        product = double_backward(case, other, case.data, own, removed)
        parts = zip(product, slope, removed, strict=True)
        rises.append(sum(float(((c / 2 - g).double() * r).sum()) for c, g, r in parts))
    assert rises[0] < p.epsilon * 1.001
    assert rises[1] > p.epsilon * 0.999

    # The measurement, which is near that, and its check.
    def pruned(sparsity: float) -> float:
        return value(case, without_smallest(model, weights, sparsity)[0])

    m = gwprune.measure_threshold(model, case.loss_fn, case.data, p.epsilon, resolution=0.01, **case.options)
    assert m.dense_loss == pytest.approx(dense, rel=1e-4)
    assert pruned(m.lower) <= dense + p.epsilon * 1.001
    assert pruned(m.upper) > dense + p.epsilon * 0.999
    assert p.quadratic == pytest.approx(m.threshold, abs=0.1)  # as predict_threshold says of networks without l1
    check = p.check(model, case.loss_fn, case.data, weight=case.options.get("weight"))
    assert check.rises[1] == pytest.approx(pruned(p.threshold) - dense, rel=1e-2, abs=1e-3 * dense)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())

    # The pruned network, from its file.
    mask = gwprune.prune(model, m.threshold, prunable=case.options.get("prunable"))
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert mask.removed == zeros == math.ceil(m.threshold * dimension)
    for file in ("pruned.pt", "pruned.safetensors"):
        report = gwprune.save_pruned(model, mask, tmp_path / file, inputs=part(case.inputs, slice(0, 2)))
        assert report.zeros == zeros
        again = case.build() if name != "lora" else dense_layers(8, 96, 96, 1)
        if file.endswith(".pt"):
            again.load_state_dict(torch.load(tmp_path / file))
        else:
            safetensors.torch.load_model(again, tmp_path / file)
        assert torch.equal(output_of(again.eval(), case), output_of(model, case))


def test_a_tied_output_layer_is_written_once(tmp_path):
    _, model = given("character_gpt")
    mask = gwprune.prune(model, 0.5)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    assert gwprune.save_pruned(model, mask, tmp_path / "a.pt").bytes < 1.02 * (tmp_path / "plain.pt").stat().st_size
    state = torch.load(tmp_path / "a.pt")
    assert state["head.weight"].data_ptr() == state["tokens.weight"].data_ptr()


# --- what is said where a default does not do -------------------------------------------------------------------------


def test_a_network_without_linear_layers_names_its_matrices():
    case, model = given("gpt2")
    with pytest.raises(
        ValueError, match=r"no prunable weights.*transformer\.h\.0\.attn\.c_attn\.weight.*prunable='\*'"
    ):
        gwprune.predict_threshold(model, None, case.data, epsilon="2%")


def test_padding_that_does_not_count_is_noticed():
    case, model = given("llama")
    with pytest.raises(ValueError, match=r"no mean over samples.*ignore_index.*weight="):
        gwprune.predict_threshold(model, None, case.data, epsilon="2%")


def test_adapters_that_are_not_merged_have_the_curvature_of_the_merged_network():
    case, _ = given("lora")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = case.build().double().eval()
    for layer in model:
        if isinstance(layer, LoRA):
            nn.init.normal_(layer.lora_B.weight, std=0.1, generator=seeded(8))
    data = doubled(case.data)
    beside = curvature_operator(model, case.loss_fn, data, prunable="*.base_layer.weight")
    merged = nn.Sequential(*(copy.deepcopy(each).merged() if isinstance(each, LoRA) else each for each in model))
    plain = curvature_operator(merged.eval(), case.loss_fn, data)
    vector = torch.randn(plain.shape[0], generator=seeded(3), dtype=torch.float64)
    torch.testing.assert_close(beside @ vector, plain @ vector, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("call", [gwprune.predict_threshold, gwprune.measure_threshold])
def test_an_output_that_the_loss_cannot_take_is_named(call: Callable):
    case, model = given("lstm")
    texts = model.tokens(case.data[0]).detach()
    with pytest.raises(TypeError, match=r"cannot take the network's output, tuple .* choose the tensor with forward="):
        call(model.lstm, over_characters, (texts, case.data[1]), epsilon=0.1, prunable="*")
    with pytest.raises(ValueError, match="cross_entropy takes classes along axis 1"):
        call(model, F.cross_entropy, case.data, epsilon=0.1, prunable="*")
    chosen = call(
        model.lstm,
        lambda output, target: output.square().mean(),
        (texts, case.data[1]),
        forward=lambda model, batch: (model(batch[0])[0], batch[1]),
        epsilon=0.1,
        prunable="*",
        **({"steps": 4} if call is gwprune.predict_threshold else {}),
    )
    assert 0 < chosen.threshold <= 1
