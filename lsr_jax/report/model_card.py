"""The model card of a run: what was trained, on what, how well, and what to check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lsr_jax.report import results
from lsr_jax.report.results import Table

DATA_TERMS = """\
lsr_jax ships and downloads no data set and grants no rights to one. Before you publish
or use these weights, check yourself:

- the terms of every data set above, which are not known to lsr_jax: whether they allow
  your use, and publishing what was trained on them (`streets` is drawn by this code);
- the terms of pre-trained weights that the run started from;
- whether images show people or number plates that may not be shared."""
LIMITS = """\
- Trained and measured on the two domains above and on nothing else; a third domain, another
  camera, weather, night or country is a new shift.
- Every pixel gets one of the classes above, also what is none of them.
- Scores of rare and small classes rest on few pixels; see the table by class, not the mean.
- Not a safety component: nothing here was tested for driving or for decisions on people.
- Rows whose selection rule is `oracle` chose the checkpoint on the reported labels."""


def markdown(
    config: Mapping,
    manifest: Mapping,
    classes: Sequence[str],
    stages: Sequence[str],
    scores: Sequence[Table],
    remarks: Sequence[str] = (),
) -> str:
    """The card of a run as Markdown.

    ``stages`` are those that were evaluated; ``remarks`` are on the data, and on what has
    no score.
    """
    model = config["model"]
    parts = [
        "# Model card",
        f"Written by lsr_jax for the run of `{manifest['command']}`.",
        "## Model",
        f"Semantic segmentation, {model['num_classes']} classes: {', '.join(classes)}. "
        + _sentence("Network", model),
        "## Data",
        *(_domain(name, config, manifest) for name in ("source", "target")),
        f"Preprocessing: {config['data']['preprocessing']}.",
        "## Training",
        *(_stage(name, config) for name in stages),
        f"Seed {config['seed']}. The whole config is in `config.json`.",
        "## Scores",
        *remarks,
        results.markdown(scores).strip(),
        "## Limits",
        LIMITS,
        "## Licences",
        DATA_TERMS,
        "## Environment",
        ", ".join(f"{name} {v}" for name, v in manifest["versions"].items())
        + f"; Python {manifest['python']}; {manifest['device_kind']}, "
        f"{len(manifest['devices'])} device(s), {manifest['cpus']} CPU cores.",
    ]
    return "\n\n".join(parts) + "\n"


def _domain(name, config, manifest):
    data = config["data"][name]
    facts = [f"**{name.capitalize()}**: `{data['name']}`"]
    if data.get("preset"):
        facts.append(f"preset {data['preset']}")
    if any(data["size"]):
        facts.append("input {} x {} (height x width)".format(*data["size"]))
    facts.append(f"trained on split `{data['train']}`, measured on `{data['val']}`")
    facts.append(f"fingerprint `{manifest['data'][name]}`")
    return ", ".join(facts) + "."


def _stage(name, config):
    stage = config[name]
    method = {key: x for key, x in stage["method"].items() if key != "name"}
    keywords = _sentence("Its keywords", method) if method else "It has no keywords."
    optimizer = stage["optimizer"]
    return (
        f"**{name}**: method `{stage['method']['name']}`, from `{stage['init_from']}`, "
        f"{stage['steps']} steps of {stage['batch_size']} images a domain, "
        f"{optimizer['name']} at {optimizer['learning_rate']:g}. {keywords}"
    )


def _sentence(what, facts):
    """Keys and values in one line."""
    return f"{what}: " + ", ".join(f"{k} `{_short(v)}`" for k, v in facts.items()) + "."


def _short(value):
    return f"{value:g}" if isinstance(value, float) else value
