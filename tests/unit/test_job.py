"""What a job is: log, error boundary, device, and what a script's ``snakemake`` object gives."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from gwprune.jobs.job import Job, from_snakemake, job, resolve_device
from gwprune.jobs.rules import run
from gwprune.storage.files import config_hash

from .helpers_run import finished_run

logger = logging.getLogger("gwprune")


@pytest.fixture(autouse=True)
def threads():
    """Jobs set the number of torch's threads for their process; here that process goes on."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


# --- log ----------------------------------------------------------------------------------------------------


def test_a_job_writes_its_log(tmp_path):
    log = tmp_path / "logs/train/a.log"
    with job(log, run="fc_l1-0", seed=3, device="cpu") as this:
        logger.info("loss %.2f", 0.25)
        assert this == Job("fc_l1-0", 3, "cpu", {})
    first, middle, last = log.read_text().splitlines()
    assert first.endswith("INFO begun on cpu, threads 1, run fc_l1-0, seed 3")
    assert middle.endswith("INFO loss 0.25")
    assert last.endswith("INFO done")
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line) for line in (first, middle, last))


def test_warnings_reach_standard_error_and_messages_do_not(tmp_path, capsys):
    with job(tmp_path / "a.log"):
        logger.info("only in the log")
        logger.warning("for the person too")
    error = capsys.readouterr().err
    assert "for the person too" in error
    assert "only in the log" not in error
    assert "WARNING for the person too" in (tmp_path / "a.log").read_text()


def test_a_job_that_runs_again_starts_its_log_anew(tmp_path):
    for message in ("first attempt", "second attempt"):
        with job(tmp_path / "a.log"):
            logger.info(message)
    text = (tmp_path / "a.log").read_text()
    assert "second attempt" in text
    assert "first attempt" not in text


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_logged_after_the_job(tmp_path, fails):
    before = list(logger.handlers)
    try:
        with job(tmp_path / "a.log"):
            if fails:
                raise ValueError("x")
    except SystemExit:
        assert fails
    logger.warning("afterwards")
    assert logger.handlers == before
    assert "afterwards" not in (tmp_path / "a.log").read_text()


# --- errors -------------------------------------------------------------------------------------------------


def test_an_error_ends_the_process_with_one_clear_line_and_the_traceback_in_the_log(tmp_path):
    log = tmp_path / "a.log"

    def inner_function():
        raise ValueError("rate 3 is too high")

    with pytest.raises(SystemExit) as caught, job(log, run="a", seed=0):
        inner_function()
    assert caught.value.code == f"gwprune: ValueError: rate 3 is too high\n(log: {log})"
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "inner_function" in text
    assert text.rstrip().endswith("ValueError: rate 3 is too high")
    assert "INFO done" not in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(3)])
def test_an_interruption_is_no_error_of_the_job(tmp_path, error):
    with pytest.raises(error if isinstance(error, type) else SystemExit) as caught, job(tmp_path / "a.log"):
        raise error
    assert not isinstance(caught.value, SystemExit) or caught.value.code == 3
    assert "Traceback" not in (tmp_path / "a.log").read_text()


def test_what_a_signal_left_half_written_goes(tmp_path):
    output, checkpoint = tmp_path / "table.parquet", tmp_path / "train.pt"

    def interrupted_work():
        for path in (output, checkpoint):
            path.with_name(f".{path.name}.abcdefgh.part").touch()
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit), job(tmp_path / "a.log", outputs=[str(output)], checkpoints=[str(checkpoint)]):
        interrupted_work()
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_a_seed_that_is_no_number_ends_like_any_error(tmp_path):
    with pytest.raises(SystemExit, match="ValueError.*'first'"), job(tmp_path / "a.log", seed="first"):
        pytest.fail("the block must not run")
    assert "Traceback" in (tmp_path / "a.log").read_text()


# --- device and threads ---------------------------------------------------------------------------------------


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_without_cuda_is_the_cpu(no_cuda):
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("cpu") == torch.device("cpu")


def test_auto_with_cuda_is_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cpu") == torch.device("cpu")


def test_cuda_without_cuda_is_refused_with_the_way_out(no_cuda):
    with pytest.raises(RuntimeError, match=r"device: cuda, but .* use device: auto or cpu"):
        resolve_device("cuda")


def test_a_job_that_asks_for_cuda_in_vain_ends_with_its_log(tmp_path, no_cuda):
    log = tmp_path / "a.log"
    with pytest.raises(SystemExit) as caught, job(log, device="cuda"):
        pytest.fail("the block must not run")
    assert "device: cuda, but this job sees no CUDA device" in caught.value.code
    assert str(log) in caught.value.code
    assert "Traceback" in log.read_text()


def test_a_job_computes_with_its_threads(tmp_path):
    for count in (2, 1):
        with job(tmp_path / "a.log", device="cpu", threads=count):
            assert torch.get_num_threads() == count


def test_a_job_without_a_device_leaves_torch_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("torch was set up"))
    with job(tmp_path / "a.log", threads=2) as this:
        assert this.device == "cpu"


# --- what work is given ---------------------------------------------------------------------------------------


def test_a_job_knows_its_key_columns_and_provenance(tmp_path):
    configuration = {"lr": 0.1, "epochs": 3}
    with job(tmp_path / "a.log", run="a", seed="2", device="cpu", configuration=configuration) as this:
        assert this.key == {"run": "a", "seed": 2}
        origin = this.provenance()
    assert origin["device"] == "cpu"
    assert origin["config_hash"] == config_hash(configuration)


def test_a_job_of_all_runs_has_an_empty_run_and_seed_minus_1(tmp_path):
    with job(tmp_path / "a.log") as this:
        assert this.key == {"run": "", "seed": -1}


class Named:
    """Like snakemake's lists of names: values by items(), by position and as attributes."""

    def __init__(self, **values):
        vars(self).update(values)

    def items(self):
        return vars(self).items()

    def __iter__(self):
        return iter(vars(self).values())


def snakemake(log, rule: str = "train", threads: int = 1, inputs=None, outputs=None, **params) -> SimpleNamespace:
    return SimpleNamespace(
        rule=rule,
        log=[str(log)],
        wildcards={"run": "digits_fc_l1-0", "seed": "4"},
        params=Named(**params),
        input=Named(**(inputs or {})),
        output=Named(**(outputs or {})),
        resources={},
        config={"data_dir": "elsewhere"},
        threads=threads,
    )


def test_a_script_gets_run_seed_device_threads_and_settings_from_snakemake(tmp_path):
    told = {"recipe": {"lr": 0.1}}
    with from_snakemake(snakemake(tmp_path / "a.log", threads=2, device="auto", settings=told)) as this:
        assert (this.run, this.seed, this.data_dir) == ("digits_fc_l1-0", 4, "elsewhere")
        assert this.device == str(resolve_device("auto"))
        assert this.configuration == {"device": "auto", "settings": told}
        assert torch.get_num_threads() == 2
    assert "run digits_fc_l1-0, seed 4" in (tmp_path / "a.log").read_text()


def test_a_script_without_a_device_leaves_torch_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("torch was set up"))
    with from_snakemake(snakemake(tmp_path / "a.log", threads=2)) as this:
        assert this.device == "cpu"


def test_a_script_without_run_and_seed_serves_all(tmp_path):
    script = snakemake(tmp_path / "a.log", provenance={"a": 1}, settings={})
    script.wildcards = {}
    with from_snakemake(script) as this:
        assert this.key == {"run": "", "seed": -1}
        assert this.configuration == {"a": 1}


def test_a_script_that_fails_exits_with_message_and_log(tmp_path):
    log = tmp_path / "a.log"
    with pytest.raises(SystemExit) as caught, from_snakemake(snakemake(log)):
        raise KeyError("x")
    assert caught.value.code == f"gwprune: KeyError: 'x'\n(log: {log})"


def test_the_leftovers_of_the_checkpoint_in_the_settings_are_removed(tmp_path):
    left = tmp_path / ".train.pt.x1y2.part"
    left.write_text("half")
    with from_snakemake(snakemake(tmp_path / "a.log", settings={"checkpoint": str(tmp_path / "train.pt")})):
        assert not left.exists()


def test_a_script_does_the_work_of_its_rule(tmp_path):
    small = finished_run()
    figure = tmp_path / "thresholds.svg"
    script = snakemake(
        tmp_path / "a.log",
        "threshold_figure",
        inputs={"thresholds": small.plan.table("thresholds")},
        outputs={"predicted_vs_empirical": str(figure), "predicted_vs_empirical_png": f"{figure}.png"},
        settings={"figures": {"predicted_vs_empirical": ["thresholds"]}},
    )
    script.wildcards = {}
    run(script)
    assert "<svg" in figure.read_text()[:1000]
    script.params = Named(settings={"figure": {}})
    with pytest.raises(SystemExit, match="TypeError: .*unexpected keyword argument 'figure'"):
        run(script)


@pytest.mark.parametrize("rule", ["collect", "aggregate", "run_figures"])
def test_a_job_on_tables_does_not_import_torch(rule):
    code = f"import sys; from gwprune.jobs.rules import work_of; work_of({rule!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plan_does_not_import_torch():
    code = (
        "import sys; from gwprune.config import load_file; from gwprune.config.plan import Plan;"
        "from gwprune.config.settings import settings_of; Plan(load_file('config/config.yaml'));"
        "assert not {'torch', 'matplotlib', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
