"""The table and the pictures of a run, from the checkpoints in its workdir."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lsr_jax.analysis import figures, formats, rows, tables
from lsr_jax.data import pipeline, records
from lsr_jax.errors import InputError
from lsr_jax.evaluation.evaluator import Evaluator
from lsr_jax.training import distributed
from lsr_jax.training.experiment import Experiment, Network

PROTOCOL = "native"
ROOT = Path(__file__).parents[2]  # relative paths of recorded rows start here


def write(
    experiment: Experiment,
    stages: Iterable[str] | None = None,
    *,
    per_class: bool = False,
    folder: str = "report",
) -> list[dict]:
    """Evaluate stages, print their table, write tables and pictures into the workdir.

    A stage is evaluated on the validation splits of both domains, with the BatchNorm
    statistics of its training and with statistics re-estimated on unlabelled target
    training images.

    Args:
      experiment: with finished checkpoints.
      stages: names; all of the config by default.
      per_class: print the IoU of every class too.
      folder: where to write, below the workdir.

    Returns:
      The rows, as in ``metrics.json``.

    Raises:
      InputError: a stage without checkpoint, or unusable data.
    """
    config = experiment.config
    stages = tuple(stages or config["stages"])
    unknown = set(stages) - set(config["stages"])
    if unknown:
        raise InputError(
            f"stages: expected some of {', '.join(config['stages'])}, found "
            f"{', '.join(sorted(unknown))}"
        )
    evaluation = Evaluation(experiment)
    found = [row for stage in stages for row in evaluation.rows(stage)]
    for path in config["recorded"]:
        found += rows.read(ROOT / path)

    folder = experiment.workdir / folder
    pictures = evaluation.pictures(stages)  # every process takes part
    if not distributed.is_main():
        return found
    control = config["evaluation"]["control"]
    summary = tables.summary(found, control=control)
    whole = [*summary, *tables.per_class(found)]
    rows.write(folder / "metrics.json", found)
    (folder / "metrics.csv").write_text(rows.to_csv(found))
    (folder / "table.md").write_text(formats.markdown(whole))
    (folder / "table.tex").write_text(formats.latex(whole))
    space = evaluation.space
    figures.panel(*pictures, space.classes, space.colors, folder / "panel.png")
    print(formats.terminal(whole if per_class else summary))
    print(f"\n{folder}: metrics.json, metrics.csv, table.md, table.tex, panel.png")
    return found


class Evaluation:
    """Evaluates the stages of one experiment; every image size is compiled once."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.config = experiment.config["evaluation"]
        self.space = experiment.domains["target"].space
        self.networks: dict[str, Network] = {}
        self.evaluator = Evaluator(
            experiment.model.forward,
            num_classes=experiment.model.num_classes,
            preprocess=experiment.normalise,
            mesh=experiment.mesh,
        )

    def network(self, stage: str) -> Network:
        """The trained network of a stage, restored once for table and pictures."""
        if stage not in self.networks:
            self.networks[stage] = self.experiment.trained(stage)
        return self.networks[stage]

    def rows(self, stage: str) -> Iterator[dict]:
        """The rows of a stage: both domains, both kinds of BatchNorm statistics."""
        network = self.network(stage)
        statistics = {
            "running": network.model_state,
            "target": self.target_statistics(network),
        }
        for bn, model_state in statistics.items():
            for domain in ("target", "source"):
                matrix = self.evaluator.confusion(
                    network.params,
                    model_state,
                    self.batches(self.experiment.open(domain, "val")),
                    protocol=PROTOCOL,
                )
                yield rows.make(
                    matrix,
                    classes=self.space.classes,
                    subsets=self.space.subsets(),
                    stage=stage,
                    method=self.experiment.config[stage]["method"]["name"],
                    seed=self.experiment.config["seed"],
                    step=network.step,
                    domain=domain,
                    split=self.experiment.config["data"][domain]["val"],
                    bn=bn,
                    protocol=PROTOCOL,
                    selection="last",
                )

    def target_statistics(self, network: Network):
        """BatchNorm statistics of the first unlabelled target training images."""
        source = self.experiment.open("target", "train")
        count = min(self.config["batchnorm_images"], len(source))
        with self.batches(First(source, count)) as batches:
            return self.evaluator.target_statistics(
                network.params, network.model_state, batches
            )

    def batches(self, source: Sequence) -> pipeline.Batches:
        """Batches that the devices divide."""
        devices = self.experiment.mesh.devices.size
        size = -(-self.config["batch_size"] // devices) * devices
        return pipeline.eval_batches(source, batch_size=size)

    def pictures(self, stages: Sequence[str]) -> tuple[np.ndarray, np.ndarray, dict]:
        """Target validation images, their truth and the prediction of every stage."""
        source = self.experiment.open("target", "val")
        decode = partial(records.decode, labelled=True)
        # Spread over the split, so that one street or city does not fill the page.
        count = min(self.config["panel_images"], len(source))
        chosen = [decode(source[i * len(source) // count]) for i in range(count)]
        images = np.stack([example["image"] for example in chosen])
        predictions = {}
        for stage in stages:
            network = self.network(stage)
            predictions[stage] = self.evaluator.predict(
                network.params, network.model_state, images
            )
        truth = np.stack([example["label"] for example in chosen])
        return images, truth, predictions


class First:
    """The first ``count`` records of a source."""

    def __init__(self, source: Sequence, count: int):
        self.source = source
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.source[index]
