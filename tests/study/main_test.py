"""The command: which cells run, what is skipped, what a failure leaves standing.

Training and evaluation are replaced by rows of known numbers; real runs of the loop are
tested in tests/training and tests/fault_test.py.
"""

import csv
import functools
import json
import os
import signal

import pytest

from lsr_jax import cli, report
from lsr_jax.errors import TrainingError
from lsr_jax.report import figures, results
from lsr_jax.study import __main__ as study_run
from lsr_jax.training import compile, loop, workdir
from lsr_jax.training.stop import Stopped

# How ml_collections reads config files.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
CONFIG = "configs/streets.py:tiny"
BASE = {
    "source_only": 0.30,
    "batchnorm_only": 0.31,
    "max_square": 0.33,
    "lsr": 0.35,
    "target_only": 0.50,
    "bdl": 0.40,
    "dacs": 0.36,
}


class Experiment:
    def __init__(self, config, folder):
        self.config, self.workdir = config, folder


@pytest.fixture
def fake(monkeypatch):
    """Replace training; ``fake.trained`` lists runs.

    ``fail``, ``break_`` and ``stop`` name methods at which training ends by an error of
    the run, by one of the code, and by a signal; ``chosen`` is the best step by a rule.
    """

    class Fake:
        trained, fail, break_, stop, chosen = (), (), (), (), None

    fake = Fake()

    def train(config, folder, stop, *, check, finish):
        stage = config["stages"][-1]
        method = config[stage]["method"]["name"]
        fake.trained = (*fake.trained, folder.name)
        if method in fake.fail:
            raise TrainingError(f"stage {stage}: not finite\nat all")
        if method in fake.break_:
            raise ZeroDivisionError("in the middle")
        if method in fake.stop:
            with stop.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                raise Stopped(f"stopped by {stop.after_step()} after step 1")
        workdir.check(folder, config)
        facts = {"data": {"source": "-", "target": "-"}, "weights": {}}
        with workdir.locked(folder, config, facts):
            pass  # config.json and manifest.json are all that is wanted
        finish(Experiment(config, folder))

    def of_stage(config, stage):
        method, seed = config[stage]["method"], config["seed"]
        last = config["stages"][-1]
        share = BASE[method["name"]] + 0.01 * seed - 0.1 * (stage != last)
        share -= 0.02 * (method.get("perpendicularity") == 0)
        steps = config[stage]["steps"]
        reported = {"step": steps, "selection": "last"}
        if fake.chosen:
            reported = {"step": fake.chosen, "selection": "source_val"}
            reported["newest"] = steps
        return [
            results.make(
                # Hits over hits and both kinds of misses: the share asked for.
                [[200 * share, 100 - 100 * share], [100 - 100 * share, 200 * share]],
                classes=("road", "pole"),
                subsets={"large": (0,), "small": (1,)},
                stage=stage,
                method=method["name"],
                seed=seed,
                domain=domain,
                split="val",
                bn=bn,
                protocol="native",
                **reported,
            )
            for domain in ("target", "source")
            for bn in ("running", "target")
        ]

    def write(experiment):
        stages = experiment.config["stages"]
        found = [row for stage in stages for row in of_stage(experiment.config, stage)]
        results.write(experiment.workdir / "report" / "metrics.json", found)
        (experiment.workdir / "report" / "index.html").write_text("")

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(
        figures, "save", functools.partial(figures.save, formats=["png"])
    )
    monkeypatch.setattr(report, "write", write)
    monkeypatch.setattr(compile, "configure", lambda cpu_devices: None)
    return fake


def run(tmp_path, *more):
    flags = ["--config", CONFIG, "--workdir", str(tmp_path / "study"), *more]
    return study_run.main(flags)


def test_two_methods_two_seeds_then_nothing_to_do(fake, tmp_path, capsys):
    flags = ("--methods", "source_only,lsr", "--seeds", "0,1", "--config.adapt.steps=7")
    assert run(tmp_path, *flags) == 0
    folder = tmp_path / "study"
    pretrainings = [name for name in fake.trained if name.startswith("pretraining-")]
    assert len(fake.trained) == 4
    assert len(pretrainings) == 2
    config = workdir.read_config(folder / "lsr-1")
    assert config["adapt"]["steps"] == 7
    assert config["adapt"]["init_from"] == str(folder / pretrainings[1])

    facts = json.loads((folder / "study.json").read_text())
    assert [cell["status"] for cell in facts["cells"]] == ["finished"] * 4
    (gap,) = (
        entry
        for entry in facts["differences"]
        if (entry["line"], entry["domain"], entry["bn"], entry["measure"])
        == ("lsr", "target", "running", "miou")
    )
    assert gap["control"] == "source_only"
    assert gap["mean"] == pytest.approx(0.05)
    text = (folder / "study.md").read_text()
    assert "35.5 ± 0.7" in text
    assert "+5.0 [+5.0, +5.0]*" in text
    table = list(csv.DictReader((folder / "study.csv").read_text().splitlines()))
    assert {row["line"] for row in table} == {"source_only", "lsr"}
    assert len(table) == 16
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png") == 2
    assert (folder / "study.tex").read_text().count("tabular}") == 8
    assert (folder / "methods.png").exists()
    assert "Stages" not in page

    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    fake.trained = ()
    assert run(tmp_path, *flags) == 0
    assert fake.trained == ()
    after = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    changed = [p.name for p in before if before[p] != after[p]]
    assert changed == []
    assert "finished" in capsys.readouterr().out


def test_a_line_is_a_method_and_other_words_of_the_config(fake, tmp_path):
    methods = "batchnorm_only+like=clan,mic,lsr,lsr+masked"
    assert run(tmp_path, "--methods", methods, "--seeds", "0") == 0
    folder = tmp_path / "study"
    plain, masked, mic, control = (
        workdir.read_config(folder / name)
        for name in ("lsr-0", "lsr+masked-0", "mic-0", "batchnorm_only+like=clan-0")
    )
    assert plain["adapt"]["masked"]["weight"] == 0
    assert masked["adapt"]["masked"]["weight"] == 1
    assert mic["adapt"]["method"]["name"] == "dacs"
    assert control["model"]["head"] == "two_heads"
    # One pre-training for each network.
    assert len([name for name in fake.trained if name.startswith("pretraining-")]) == 3
    facts = json.loads((folder / "study.json").read_text())
    assert [(cell["line"], cell["method"]) for cell in facts["cells"]] == [
        ("batchnorm_only+like=clan", "batchnorm_only"),
        ("mic", "dacs"),
        ("lsr", "lsr"),
        ("lsr+masked", "lsr"),
    ]
    controls = {gap["control"] for gap in facts["differences"]}
    assert controls == {"batchnorm_only+like=clan"}


def test_stages_of_one_method_stand_beside_each_other(fake, tmp_path):
    assert run(tmp_path, "--methods", "source_only,bdl", "--seeds", "0,1") == 0
    text = (tmp_path / "study" / "study.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| bdl")]
    # Means and differences: of the last stage alone.
    assert [line.split("|")[1].strip() for line in lines[:2]] == ["bdl", "bdl"]
    rounds = [line for line in lines if line.startswith("| bdl, ")]
    names = [line.split("|")[1].strip() for line in rounds]
    assert names == ["bdl, adversarial", "bdl, round_1", "bdl, round_2"]
    assert ["30.5 ± 0.7" in line for line in rounds] == [True, True, False]
    assert "40.5 ± 0.7" in rounds[-1]
    assert ">Stages</" in (tmp_path / "study" / "index.html").read_text()


def test_a_checkpoint_that_a_rule_chose_is_compared_and_finished(fake, tmp_path):
    fake.chosen = 3
    flags = ("--methods", "source_only,lsr", "--seeds", "0,1")
    assert run(tmp_path, *flags) == 0
    facts = json.loads((tmp_path / "study" / "study.json").read_text())
    gaps = [e for e in facts["differences"] if e["measure"] == "miou"]
    assert [gap["mean"] for gap in gaps] == pytest.approx([0.05] * 4)
    assert {gap["n"] for gap in gaps} == {2}
    assert "selection source_val" in (tmp_path / "study" / "study.md").read_text()
    fake.trained = ()
    assert run(tmp_path, *flags) == 0
    assert fake.trained == ()


def test_a_signal_ends_the_study_and_the_same_command_goes_on(fake, tmp_path, capsys):
    fake.stop = ("max_square",)
    flags = ("--methods", "source_only,max_square,lsr", "--seeds", "0")
    before = signal.getsignal(signal.SIGTERM)
    assert run(tmp_path, *flags) == 3
    assert signal.getsignal(signal.SIGTERM) == before
    error = capsys.readouterr().err
    assert error.startswith("stopped by SIGTERM after step 1; continue with: python")
    assert fake.trained[1:] == ("max_square-0",)
    assert not (tmp_path / "study" / "study.json").exists()

    fake.stop, fake.trained = (), ()
    assert run(tmp_path, *flags) == 0
    assert fake.trained == ("max_square-0", "lsr-0")


def test_an_error_of_the_code_shows_where_it_arose(fake, tmp_path, capsys):
    fake.break_ = ("max_square",)
    assert run(tmp_path, "--methods", "max_square,lsr", "--seeds", "0") == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):")
    assert 'raise ZeroDivisionError("in the middle")' in error
    assert error.endswith("max_square-0: ZeroDivisionError: in the middle\n")
    assert fake.trained[-1] == "lsr-0"


def test_ratios_are_to_the_oracle_of_the_same_seed(fake, tmp_path):
    flags = ("--methods", "source_only,target_only", "--seeds", "0,5")
    assert run(tmp_path, *flags) == 0
    facts = json.loads((tmp_path / "study" / "study.json").read_text())
    (ratio,) = (
        entry
        for entry in facts["summary"]
        if (entry["line"], entry["domain"], entry["bn"], entry["measure"])
        == ("source_only", "target", "running", "masr")
    )
    assert ratio["mean"] == pytest.approx((0.30 / 0.50 + 0.35 / 0.55) / 2)
    text = (tmp_path / "study" / "study.md").read_text()
    assert "ASR: ratio to target_only of the same seed" in text


def test_a_failing_cell_is_named_and_the_others_go_on(fake, tmp_path, capsys):
    fake.fail = ("max_square",)
    flags = ("--methods", "source_only,max_square,lsr", "--seeds", "0")
    assert run(tmp_path, *flags) == 1
    errors = capsys.readouterr().err
    assert "max_square-0: stage adapt: not finite at all; going on" in errors
    facts = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [cell["status"] for cell in facts["cells"]] == [
        "finished",
        "failed",
        "finished",
    ]
    assert "max_square, seed 0: failed" in (tmp_path / "study" / "study.md").read_text()

    fake.fail, fake.trained = (), ()
    assert run(tmp_path, *flags) == 0
    assert fake.trained == ("max_square-0",)


def test_without_pretraining_nothing_that_needs_it_runs(fake, tmp_path):
    fake.fail = ("source_only",)
    assert run(tmp_path, "--methods", "lsr", "--seeds", "0") == 1
    assert len(fake.trained) == 1
    facts = json.loads((tmp_path / "study" / "study.json").read_text())
    assert "its pre-training failed" in facts["cells"][0]["error"]


def test_ablation_has_a_line_for_every_term(fake, tmp_path):
    assert run(tmp_path, "--ablate", "lsr", "--seeds", "0,1") == 0
    folder = tmp_path / "study"
    facts = json.loads((folder / "study.json").read_text())
    names = {cell["line"] for cell in facts["cells"]}
    terms = ("clustering", "entropy", "norm", "perpendicularity")
    assert names == {"lsr", *(f"lsr without {term}" for term in terms)}
    means = {
        entry["line"]: entry["mean"]
        for entry in facts["differences"]
        if (entry["domain"], entry["bn"], entry["measure"])
        == ("target", "running", "miou")
    }
    assert means["lsr without perpendicularity"] == pytest.approx(-0.02)
    assert means["lsr without norm"] == pytest.approx(0)
    assert (folder / "ablation.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--methods", "lrs"), "'lrs' is unknown; known: source_only, "),
        (("--methods", "lsr,lsr+papr"), "'papr' is unknown"),
        (("--methods", "lsr+max_square"), "two of a kind"),
        (
            ("--methods", "scratch"),
            "'scratch': expected one method, found batchnorm_only",
        ),
        ((), "name at least one"),
        (("--methods", "lsr", "--seeds", "a"), "--seeds: expected numbers"),
        (
            ("--methods", "lsr", "--seeds", "0,4294967296"),
            "--seeds: expected 0 to 42949",
        ),
        (("--methods", "lsr", "surplus"), "unexpected argument 'surplus'"),
        (("--methods", "lsr", "--config.seed=1"), "name seeds by --seeds"),
        (("--methods", "lsr", "--config.adpt.steps=1"), "unknown config key"),
        (("--methods", "source_only", "--ablate", "source_only"), "has no term"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(fake, tmp_path, capsys, flags, message):
    assert run(tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert fake.trained == ()
    assert not (tmp_path / "study").exists()


def test_a_workdir_that_is_a_file_is_one_line(fake, tmp_path, capsys):
    (tmp_path / "study").write_text("")
    assert run(tmp_path, "--methods", "lsr") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: workdir {tmp_path / 'study'}: cannot be written: ")
    assert error.count("\n") == 1
    assert fake.trained == ()


def config(method, *overrides):
    return cli.read_config(f"configs/streets.py:{method},tiny", overrides)


@pytest.mark.parametrize(
    ("method", "stage", "weights"),
    [
        ("max_square", "adapt", ["entropy"]),
        ("min_ent", "adapt", ["auxiliary_entropy", "entropy"]),
        ("clan", "adapt", ["adversarial", "weight_discrepancy"]),
        ("bdl", "adversarial", ["adversarial"]),
        ("bdl", "round_1", ["adversarial", "self_training"]),
        (
            "oce",
            "adapt",
            [
                *("clustering", "contraction_source", "contraction_target", "entropy"),
                *("orthogonality", "spacing", "sparsity"),
            ],
        ),
    ],
)
def test_the_weights_of_a_method_s_own_terms(method, stage, weights):
    assert study_run.term_weights(config(method)[stage]["method"]) == weights


def test_a_weight_of_zero_has_no_term_to_remove():
    found = config("max_square", "--config.adapt.method.entropy=0.0")
    assert study_run.term_weights(found["adapt"]["method"]) == []
