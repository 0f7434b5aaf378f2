"""Every config, with every method: its real step is traced with `eval_shape`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lsr_jax import models
from lsr_jax.augment import preprocess
from lsr_jax.configs.overlays import Overlay, at, merge, origins
from lsr_jax.methods import METHODS
from lsr_jax.report import results
from lsr_jax.study import __main__ as study
from lsr_jax.training import stage as training_stage
from lsr_jax.training import state, step, weights
from lsr_jax.types import Batch, BatchSpec, Images

ROOT = Path(__file__).parents[1]
FILES = [
    path.stem
    for path in sorted((ROOT / "configs").glob("*.py"))
    if "def get_config(argument" in path.read_text() and path.stem != "custom"
]


def test_of_two_overlays_the_later_one_wins():
    stages = {"source": "source_only"}
    first = Overlay("first", {"seed": 1, **at("source", {"steps": 5, "log_every": 2})})
    second = Overlay("second", {"source.steps": 7})
    config = merge(stages, [first, second])
    assert (config.seed, config.source.steps, config.source.log_every) == (1, 7, 2)
    found = origins(config.to_dict(), stages, [first, second])
    assert (found["seed"], found["source.steps"]) == ("first", "second")
    assert found["source.batch_size"] == "configs/default.py"
    assert found["source.method.auxiliary"] == "lsr_jax/methods/controls.py"


@pytest.mark.parametrize("key", ["sead", "source.stps", "source.method.clustering"])
def test_an_overlay_sets_known_keys_only(key):
    with pytest.raises(KeyError):
        merge({"source": "source_only"}, [Overlay("typo", {key: 1})])


def trace(config, stage):
    """Shapes of the state and metrics after the stage's step, nothing computed."""
    model = models.build(**config["model"])
    method = training_stage.build_method(config, stage)
    sizes = {name: tuple(config["data"][name]["size"]) for name in ("source", "target")}
    sizes = {name: size if all(size) else (64, 128) for name, size in sizes.items()}
    count = config[stage]["batch_size"]

    def images(name):
        if name not in method.domains:
            return None
        label = jnp.zeros((count, *sizes[name]), jnp.uint8)
        rare = name == "source" and training_stage.is_rare(method, config[stage])
        return Images(
            jnp.zeros((count, *sizes[name], 3), jnp.uint8),
            label if method.gets_labels(name) else None,
            drawn=jnp.zeros(count, jnp.int32) if rare else None,
        )

    def whole(key):
        params, model_state = model.init(key, weights.ANY_SIZE)
        spec = BatchSpec(
            model.num_classes, model.feature_dim, sizes["source"], sizes["target"]
        )
        params, method_state = state.with_method(params, model_state, method, spec, key)
        optimizer = training_stage.build_optimizer(params, model, config[stage])
        start = state.create(params, model_state, method_state, optimizer, key)
        train_step = step.make_step(
            method,
            optimizer,
            model.forward,
            training_stage.build_preprocess(config, stage),
            preprocess.pixels(config["data"]["preprocessing"]),
        )
        return start, train_step(start, Batch(images("source"), images("target")))

    # optax's AdamW mixes integer counts and float rates.
    with jax.numpy_dtype_promotion("standard"):
        return jax.eval_shape(whole, jax.random.key(0))


# Tracing a ResNet-101 takes seconds, so all but one config are traced on a small network.
# `family_test` trains every method of streets.
TRACED = [("streets", None), ("gta2cs", None)]
TRACED += [("synthia2cs", "lsr,mini"), ("cs2crosscity", "lsr,mini")]
TRACED += [pytest.param("gta2cs", "mic,mit_mini", marks=pytest.mark.long)]
TRACED += [("synthia2cs", "daformer,mini_v1c")]
TRACED += [("cs2crosscity", "batchnorm_only,like=dacs,hrda,mini_v1c")]
TRACED += [("streets", "batchnorm_only,like=clan,released")]


@pytest.mark.parametrize(("name", "method"), TRACED)
def test_the_last_stage_traces_and_keeps_its_state(name, method, load_config):
    config = load_config(name, method)
    stage = config["stages"][-1]
    before, (after, metrics) = trace(config, stage)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert [x.shape for x in jax.tree.leaves(before)] == [
        x.shape for x in jax.tree.leaves(after)
    ]
    assert {"total", "gradient_norm"} < set(metrics)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FILES)
def test_every_stage_builds_its_method_from_its_keywords(name, method, load_config):
    config = load_config(name, method)
    for stage in config["stages"]:
        training_stage.build_method(
            config, stage
        )  # raises for a keyword or heads that do not fit
    assert config[config["stages"][-1]]["method"]["name"] == method


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        # The form of a term decides what a weight of it means.
        ("lsr", {"clustering": 6e-4, "clustering_distance": "squared_l2"}),
        ("lsr,released", {"clustering": 0.1, "clustering_distance": "l1_mean"}),
        ("max_square", {"entropy": 1.0, "divisor": "pixels_and_classes"}),
        ("max_square,paper", {"entropy": 1 / 19, "divisor": "pixels"}),
        ("oce", {"clustering": 0.02, "orthogonality": 0.1, "sparsity": 0.02}),
        # 8 images of 13 x 25 cells of 512 channels.
        (
            "oce,paper",
            {
                "clustering": 0.02 / 512**0.5,
                "orthogonality": 0.1 / (2600 * 19),
                "sparsity": 0.02 / (512 * 19),
            },
        ),
        ("oce,paper,large", {"orthogonality": 0.1 / (8 * 33 * 65 * 19)}),
        ("clan,released", {"warmup_steps": 0, "discriminator_warmup_steps": 0}),
        ("feature_to_adapt", {"warmup_steps": 0, "discriminator_warmup_steps": 0}),
        (
            "feature_to_adapt,paper",
            {"warmup_steps": 0, "discriminator_warmup_steps": 0},
        ),
        (
            "feature_to_adapt,released",
            {"warmup_steps": 0, "discriminator_warmup_steps": 0},
        ),
    ],
)
def test_weights_on_streets_belong_to_the_form_of_the_term(
    argument, expected, load_config
):
    found = load_config("streets", argument)["adapt"]["method"]
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("preset", ["daformer", "hrda", "mic"])
def test_streets_draws_rare_classes_in_the_stage_of_daformer_alone(preset, load_config):
    config = load_config("streets", preset)
    whole = load_config("streets", f"{preset},mit_mini")
    assert whole["source"]["rare_classes"]["temperature"] == 0
    # The same share of an image as 3000 pixels of GTA5's 1914x1052.
    assert config["adapt"]["rare_classes"] == {"temperature": 0.01, "min_pixels": 27}
    control = load_config("streets", f"batchnorm_only,like=dacs,{preset}")
    assert control["adapt"]["rare_classes"] == config["adapt"]["rare_classes"]


@pytest.mark.parametrize(
    ("name", "argument", "block"),
    [
        ("gta2cs", "lsr,masked", 64),
        ("gta2cs", "lsr,masked,tiny", 8),
        ("streets", "bdl,masked,scratch", 8),
        ("streets2camvid", "lsr,resnet50,masked", 8),
    ],
)
def test_masked_is_for_the_stages_of_the_method(name, argument, block, load_config):
    plain = load_config(name, argument.replace(",masked", ""))
    config = load_config(name, argument)
    assert config["stages"] == plain["stages"]
    source, *adapting = config["stages"]
    assert config[source]["masked"]["weight"] == 0
    for stage in adapting:
        assert config[stage]["masked"]["weight"] == 1
        assert config[stage]["masked"]["block"] == block
        assert config[stage]["method"] == plain[stage]["method"]
        built = training_stage.build_method(config, stage)
        assert "target" in built.domains


def test_photographs_are_trained_on_longer_without_a_source_stage(load_config):
    lsr, dacs = (
        load_config("streets2camvid", f"{name},resnet50") for name in ("lsr", "dacs")
    )
    assert (lsr["stages"], dacs["stages"]) == (("source", "adapt"), ("adapt",))
    # As docs/results/camvid.md says.
    assert (lsr["source"]["steps"], lsr["adapt"]["steps"]) == (4000, 500)
    assert dacs["adapt"]["steps"] == 1500
    for stage in (lsr["source"], lsr["adapt"], dacs["adapt"]):
        assert stage["optimizer"]["decay_steps"] == stage["steps"]


@pytest.mark.parametrize("name", FILES)
def test_tiny_is_the_same_run_in_seconds(name, load_config):
    whole, tiny = load_config(name, "lsr,scratch"), load_config(name, "lsr,tiny")
    assert whole["stages"] == tiny["stages"]
    assert all(tiny[stage]["steps"] <= 20 for stage in tiny["stages"])
    assert whole["adapt"]["method"] == tiny["adapt"]["method"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("lrs", "'lrs' is unknown"),
        ("lsr,max_square", "two of a kind"),
        ("lsr,single", "'single' is no preset of lsr; known: paper, released"),
        ("paper", "must be named beside it"),
        ("like=clan", "needs a method to train"),
        ("lsr,like=source_only", "'like=source_only' is unknown"),
        ("lsr,like=clan,like=oce", "two of a kind"),
        ("batchnorm_only,like=lsr,single", "no preset of batchnorm_only or lsr"),
        # Masked consistency where it would change nothing, or twice.
        ("source_only,masked", "'masked' is for methods that adapt"),
        ("target_only,masked", "'masked' is for methods that adapt"),
        ("mic,masked", "'mic' has masked image consistency already"),
        # Networks that cannot be built.
        ("max_square,multi_level,vgg16", "two levels need layer3 of a ResNet"),
        ("adapt_seg_net,torch_0_4,vgg13,tiny", "two levels need layer3 of a ResNet"),
        ("cag,vgg16", "deeplabv3plus of cag needs a ResNet"),
        ("clan,like=cag", "has a single head"),
    ],
)
def test_bad_arguments_are_named(name, argument, message, load_config):
    with pytest.raises(ValueError, match=message):
        load_config(name, argument)


@pytest.mark.parametrize(
    ("method", "stages", "origins", "pseudo_labelers"),
    [
        (
            "cag",
            ("stage_1", "stage_2", "stage_3"),
            ("source", "stage_1", "stage_2"),
            ("start",) * 3,
        ),
        (
            "bdl",
            ("adversarial", "round_1", "round_2"),
            ("source",) * 3,
            ("start", "adversarial", "round_1"),
        ),
    ],
)
def test_methods_of_several_stages(
    method, stages, origins, pseudo_labelers, load_config
):
    config = load_config("streets", f"{method},tiny")
    assert config["stages"] == ("source", *stages)
    assert tuple(config[s]["init_from"] for s in stages) == origins
    assert tuple(config[s]["pseudo_labeler"] for s in stages) == pseudo_labelers
    prepared = [
        training_stage.build_method(config, s).prepare is not None for s in stages
    ]
    if method == "cag":
        assert config["model"]["architecture"] == "deeplabv3plus"
        assert all(prepared)
    else:
        assert config["model"]["architecture"] == "deeplabv2"
        assert prepared == [False, True, True]


@pytest.mark.parametrize("name", FILES)
def test_a_preset_of_the_method_and_its_heads(name, load_config):
    paper = load_config(name, "lsr,paper")
    assert paper["adapt"]["method"]["clustering_distance"] == "squared_l2"
    assert paper["model"]["head"] == "single"
    guided = load_config(name, "max_square,multi_level")
    assert guided["adapt"]["method"]["guidance"] == 0.009
    assert guided["model"]["head"] == "multi_level"
    source = guided["stages"][0]
    assert guided[source]["method"]["auxiliary"] == 0.1


@pytest.mark.parametrize("name", FILES)
def test_vgg16_has_one_level(name, load_config):
    config = load_config(name, "adv_ent,vgg16,tiny")
    assert models.build(**config["model"]).arguments["backbone"] == "vgg16"
    assert config["model"]["head"] == "single"


def test_controls_share_the_source_stage(load_config):
    config = load_config("streets", "scratch")
    methods = ("batchnorm_only", "max_square", "lsr", "dacs")
    assert config["stages"] == ("source", *methods)
    assert {config[s]["init_from"] for s in config["stages"][1:]} == {"source"}
    trained = load_config("streets")
    assert trained["stages"] == methods
    assert {trained[s]["init_from"] for s in methods} == {"streets_mini"}
    rest = [
        {key: value for key, value in config[s].items() if key != "method"}
        for s in config["stages"][1:]
    ]
    assert all(stage == rest[0] for stage in rest)


@pytest.mark.parametrize(
    ("argument", "origin"),
    [
        ("lsr", "streets_mini"),
        ("lsr,photometric", "streets_mini"),
        ("target_only", "streets_mini"),
        ("lsr,wide", "source"),  # which starts from it
        # Another network, or other images.
        ("clan", "source"),
        ("lsr,mit_mini", "source"),
        ("lsr,large", "source"),
        ("lsr,scratch", "source"),
    ],
)
def test_where_the_trained_start_fits(argument, origin, load_config):
    config = load_config("streets", argument)
    assert config[config["stages"][-1]]["init_from"] == origin
    wide = argument.endswith("wide")
    first = config[config["stages"][0]]["init_from"]
    assert (first == "streets_mini") == (wide or origin == "streets_mini")


@pytest.mark.parametrize("name", FILES)
def test_recorded_rows_exist_and_say_where_they_come_from(name, load_config):
    for path in load_config(name)["recorded"]:
        found = results.read(ROOT / path)
        methods = {"streets_oracle": "target_only", "streets_start": "source_only"}
        assert {row["method"] for row in found} == {methods[Path(path).stem]}
        assert all(row["recorded"].startswith("python train.py") for row in found)


def test_a_study_of_a_method_and_its_control():
    methods = ("source_only", "batchnorm_only", "clan")
    load = study.loader("configs/gta2cs.py:like=clan", (), methods)
    configs = [load(method, 0) for method in methods]
    assert [c["stages"] for c in configs] == [("source",), ("adapt",), ("adapt",)]
    assert all(c["model"] == configs[0]["model"] for c in configs)
    assert {c[c["stages"][-1]]["steps"] for c in configs} == {100_000}
