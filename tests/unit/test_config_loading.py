"""Reading configuration files: every error names the user's file, also where Snakemake reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gwprune import config
from gwprune.config import ConfigError, command_line

ROOT = Path(__file__).resolve().parents[2]
VALID = "experiments: [{dataset: digits, network: fc}]\n"


def message(call, *arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a configuration file into the working directory; gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(content: bytes | str, name: str = "mine.yaml") -> str:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


# What is wrong with a file before its values are looked at.
BROKEN = [
    ("experiments: [", ", line 1: expected the node content, but found '<stream end>'"),
    (
        f"{VALID}training:\n\tepochs: 3\n",
        ", line 3: found character '\\t' that cannot start any token: indent with spaces, not with tabs",
    ),
    (
        f"{VALID}training:\n  epochs: 3\n   lr: 0.1\n",
        ", line 4: mapping values are not allowed here: a second colon in the line, or an indentation that fits none of"
        " the lines above",
    ),
    (
        f"{VALID}training:\n   epochs: 3\n  lr: 0.1\n",
        ", line 4: the indentation fits none of the lines above: keys of one section begin in the same column",
    ),
    (
        f'{VALID}results: "mine\nseeds: 3\n',
        ", line 4: found unexpected end of stream, while scanning a quoted scalar that begins in line 2",
    ),
    ("- a\n- b\n", " must hold a mapping of keys to values, not a list"),
    ("", " is empty: it must hold the key experiments at least"),
    ("# nothing\n", " is empty: it must hold the key experiments at least"),
    (f"{VALID}# Stra\xdfe\n".encode("latin-1"), ", line 2: byte 0xdf is no UTF-8: save the file as UTF-8"),
    (
        f"{VALID}seeds: [0]\ntraining: {{lr: 0.1}}\nseeds: [1]\n",
        ", line 4: key 'seeds' stands there once more, first in line 2",
    ),
    (
        f"{VALID}training:\n  epochs: 3\n  lr: 0.1\n  epochs: 4\n",
        ", line 5: key 'epochs' stands there once more, first in line 3",
    ),
    ('{\n\t"seeds": [0],\n\t"seeds": [1]\n}', ", line 3: key 'seeds' stands there once more, first in line 2"),
    ("experiments: &all\n  - *all\n", ", line 1: an alias stands for the value that it is a part of"),
]


@pytest.mark.parametrize(("content", "text"), BROKEN)
def test_a_file_that_is_no_configuration_is_named_with_the_line(written, content, text):
    path = written(content)
    for call, arguments in ((config.load_file, (path,)), (config.load_for_workflow, ({}, [Path(path).absolute()]))):
        assert message(call, *arguments) == f"mine.yaml{text}"
    assert command_line.faults(["-n", "--configfile", path]) == [f"mine.yaml{text}"]


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "no.yaml"
    assert message(config.load_file, path) == f"{path} cannot be read: No such file or directory"


def test_every_doubled_key_is_named_and_aliases_and_merges_are_none(written):
    twice = written(f"{VALID}seeds: 0\nseeds: 1\ndevice: cpu\ndevice: auto\n")
    assert [line.split(":")[0] for line in message(config.load_file, twice).splitlines()] == [
        "mine.yaml, line 3",
        "mine.yaml, line 5",
    ]
    merged = written(
        "experiments:\n- &a {name: a, dataset: digits, network: fc, training: &t {epochs: 2, warmup_epochs: 1}}\n"
        "- &b {<<: *a, name: b, training: {<<: *t, epochs: 3}}\n- {<<: *b, name: c}\n"
    )
    loaded = config.load_file(merged)
    assert [experiment.training.epochs for experiment in loaded.experiments] == [2, 3, 3]
    assert loaded.experiments[2].training.warmup_epochs == 1


def test_json_is_read_too_with_tabs_and_all(written):
    path = written(json.dumps({"experiments": [{"dataset": "digits", "network": "fc"}]}, indent="\t"), "mine.json")
    assert config.load_file(path).experiments[0].label == "digits_fc"


def test_a_fault_in_a_file_and_one_of_the_command_line_are_told_apart(written):
    path = written(f"{VALID}training: {{epochs: 0}}\n")
    values = config.read_file(path) | {"training": {"epochs": 0, "lr": "-1", "nesterov": "true"}, "devic": "cpu"}
    heading, *lines = message(config.load_for_workflow, values, [path]).splitlines()
    assert heading == "mine.yaml is not valid:"
    assert lines[0] == "  line 2, training.epochs: Input should be greater than or equal to 1, got 0"
    assert lines[1] == "  training.lr: Input should be greater than 0, got -1 (given by --config)"
    assert lines[2].startswith("  devic: unknown key; allowed: ")
    assert lines[2].endswith("did you mean 'device'? (given by --config)")
    assert len(lines) == 3


def test_the_files_of_a_workflow_are_laid_over_each_other(written):
    first, second = written(VALID, "a.yaml"), written("training: {epochs: 3}\n", "b.yaml")
    both = config.read_file(first) | config.read_file(second)
    assert config.load_for_workflow(both, [first, second]).training.epochs == 3
    both["training"] = {"epochs": 0}
    assert message(config.load_for_workflow, both, [first, second]).startswith("a.yaml and b.yaml is not valid:")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--cores", "2", "--configfile", "no.yaml"], ["no.yaml cannot be read: No such file or directory"]),
        (["-n", "--config", "device=cpu", "seeds=[0,1]", "--forceall"], []),
        (
            ["--config", "training.epochs=3", "-n"],
            [
                "--config training.epochs=3: dots do not reach into a section; write training: {epochs: 3}, with"
                " --config 'training={epochs: 3}'"
            ],
        ),
        (["-C", "epochs"], ["--config epochs: write key=value"]),
    ],
)
def test_the_command_line_is_looked_at_before_snakemake_reads_it(written, arguments, texts):
    assert command_line.faults(arguments) == texts


def snakemake(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", str(ROOT / "Snakefile"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("content", "arguments", "text"),
    [
        (
            f"{VALID}seeds: 0-4\n",
            [],
            "mine.yaml is not valid:\n  line 2, seeds: seeds are a list, here [0, 1, 2, 3, 4]",
        ),
        # Snakemake would answer this with a Python traceback.
        (f"# Stra\xdfe\n{VALID}".encode("latin-1"), [], "mine.yaml, line 1: byte 0xdf is no UTF-8"),
        (VALID, ["--config", "training.epochs=3"], "--config training.epochs=3: dots do not reach into a section"),
    ],
)
def test_snakemake_shows_the_fault_and_nothing_else(written, content, arguments, text):
    done = snakemake("--configfile", written(content), *arguments)
    assert done.returncode == 1
    profile, _, rest = done.stderr.partition("\n")
    assert profile.startswith("Using workflow specific profile")
    assert rest.startswith(text)
    assert "File" not in rest
    assert "common.smk" not in rest
