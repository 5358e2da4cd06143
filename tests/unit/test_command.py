"""`gwprune predict`: from a builder, weights and data to a prediction and a pruned file."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import gwprune
from gwprune.__main__ import main
from gwprune.measured import measure_loss
from gwprune.storage.states import read_state

from .helpers_spectra import digits

SOURCE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()

def train():
    return torch.load("data.pt")

def twice(output, target):
    return 2 * nn.functional.cross_entropy(output, target)

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, pixels, labels):
        return {"loss": nn.functional.cross_entropy(self.net(pixels), labels)}

def dicts():
    inputs, labels = train()
    return {"pixels": inputs, "labels": labels}

def number():
    return 3

def broken():
    raise KeyError("no such\\nfile")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a user's module, weights and data."""
    net = digits()
    (tmp_path / "own_nets.py").write_text(SOURCE)
    torch.save(net.data, tmp_path / "data.pt")
    torch.save(net.model.state_dict(), tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    # Without what stands for the current directory, as an installed program is started.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    yield tmp_path
    sys.modules.pop("own_nets", None)


def command(*more: str, weights: str = "model.pt", network: str = "own_nets:build", data: str = "own_nets:train"):
    given = ["--epsilon", "0.05", "--predictor", "quadratic", "--weights", weights, "--data", data]
    return ["predict", network, *given, *more]


def test_a_network_is_predicted_measured_pruned_and_saved(place, capsys):
    net = digits()
    expected = gwprune.predict_threshold(net.model, F.cross_entropy, net.data, epsilon=0.05, predictor="quadratic")
    more = ("--prunable", "*.weight", "--measure", "--save", "p.npz", "--prune", "predicted", "--out", "out/pruned.pt")
    assert main(command(*more)) == 0
    output = capsys.readouterr().out
    measured = gwprune.measure_threshold(net.model, F.cross_entropy, net.data, 0.05)
    assert output.startswith(f"{expected}\n")
    assert f"\n{measured}\n" in output
    assert gwprune.load_prediction("p.npz").to_dict() == expected.to_dict()
    mask = gwprune.load_mask("out/pruned.mask.pt")
    assert mask.removed == pytest.approx(expected.threshold * mask.dimension, abs=1)
    assert json.loads((place / "out/pruned.mask.json").read_text())["layers"] == mask.layers
    twin = digits.__wrapped__().model
    mask.apply(twin)
    pruned = read_state("out/pruned.pt")
    assert all(torch.equal(value, pruned[name]) for name, value in twin.state_dict().items())
    assert f"{measure_loss(twin, F.cross_entropy, net.data):.6g} pruned" in output
    assert "1,184 dense" in output


def test_losses_by_name_or_of_ones_own_and_weights_within_a_checkpoint(place, capsys):
    torch.save({f"net.{name}": value for name, value in digits().model.state_dict().items()}, place / "own.pt")
    torch.save({"epoch": 3, "state_dict": digits().model.state_dict()}, place / "checkpoint.pt")
    assert main(command(weights="checkpoint.pt")) == 0
    once = capsys.readouterr().out
    assert main(command("--loss", "own_nets:twice", "--epsilon", "0.1")) == 0
    assert capsys.readouterr().out.splitlines()[0] == once.splitlines()[0]
    given = ["--loss", "own", "--prune", "0.5", "--out", "pruned.pt"]
    assert main(command(*given, network="own_nets:Own", data="own_nets:dicts", weights="own.pt")) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[0] == once.splitlines()[0]
    assert "1,184 dense" in output
    assert main(command("--epsilon", "accuracy: 2", "--measure")) == 0
    assert f"\n{gwprune.measure_threshold(digits().model, F.cross_entropy, digits().data, 'accuracy: 2')}\n" in (
        capsys.readouterr().out
    )
    assert main(command("--samples", "100", "--epsilon", "10%")) == 0
    assert re.search("samples +100\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (command(network="own_nets:bild"), "did you mean 'build'"),
        (command(network="own_net:build"), "module 'own_net' cannot be imported"),
        (command(network="own_nets:number"), "returned int, not a torch.nn.Module"),
        (command(data="own_nets:broken"), "data 'own_nets:broken' failed: KeyError"),
        (command("--loss", "crossentropy"), "did you mean 'cross_entropy'"),
        (command(weights="module.pt"), "holds more than tensors: it asks for torch.nn"),
        (command(weights="model.safetensors"), "model.safetensors"),
        (command(weights="none.pt"), "none.pt"),
        (command(weights="other.pt"), "other.pt does not fit the network Sequential: 0.weight is missing"),
        (command("--epsilon", "std"), "epsilon must be 'batch_std'"),
        (command("--prune", "0.9", "--out", "pruned.json"), "as .safetensors, or by torch.save"),
    ],
)
def test_bad_input_is_one_line_and_status_1(place, capsys, arguments, message):
    torch.save(digits().model, place / "module.pt")
    torch.save({"0.wait": torch.ones(3)}, place / "other.pt")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("gwprune: ")
    assert message in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "own_nets:build"], "required: --data"),
        (command("--prune", "0.9"), "--prune and --out go together"),
        (command("--out", "pruned.pt"), "--prune and --out go together"),
        (command("--prune", "1.5", "--out", "pruned.pt"), "--prune: must be in [0, 1] or 'predicted', got '1.5'"),
        (command("--prune", "all", "--out", "pruned.pt"), "--prune: must be in [0, 1] or 'predicted', got 'all'"),
        (command("--predictor", "wide"), "invalid choice: 'wide'"),
        (command("--stepz", "3"), "--stepz"),
    ],
)
def test_a_wrong_command_line_is_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "usage: gwprune" in error
    assert message in error


def test_an_interrupt_is_status_130(place, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gwprune.command.predict_threshold", interrupt)
    assert main(command()) == 130
    assert capsys.readouterr().err == "gwprune: interrupted\n"


def test_help_has_an_example_and_imports_nothing_heavy():
    script = (
        "import sys\nfrom gwprune.__main__ import main\ntry:\n    main(['predict', '--help'])\n"
        "finally:\n    print(*sys.modules, sep='\\n')"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "gwprune predict mypkg.nets:build --weights model.pt" in run.stdout
    assert not {"torch", "numpy", "matplotlib"} & set(run.stdout.splitlines())
