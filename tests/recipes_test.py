"""Real data: every resolved config against what papers and released code say."""

import published_recipes as published
import pytest

from lsr_jax.configs import common
from lsr_jax.configs.cs2crosscity import CITIES
from lsr_jax.data import label_spaces
from lsr_jax.methods import METHODS

DOMAINS = ("source", "target")
PAIRS = ("gta2cs", "synthia2cs", "cs2crosscity")
LSR_GTA5 = published.lsr(
    0.1, 0.2, 0.025, 0.2, 0.1, class_frequency="gta5", norm_delta=0.1
)
LSR_SYNTHIA = published.lsr(0.1, 0.0, 0.1, 0.2, 0.05, class_frequency="synthia")
SYNTHIA = ((760, 1280), (512, 1024))
SYNTHIA_WHOLE = ((1520, 2560), (1024, 2048))
REAL = {"sizes": ((512, 1024), (512, 1024)), "lists": ("train", "tokyo_train")}

TABLE = {
    "gta2cs:adapt_seg_net": published.ASN,
    "gta2cs:adapt_seg_net,single": published.ASN._replace(
        head="single", weights={"adversarial": 0.001, "auxiliary": 0.0}
    ),
    "gta2cs:adapt_seg_net,least_squares": published.ASN._replace(
        head="single", weights={"adversarial": 0.01, "kind": "least_squares"}
    ),
    "gta2cs:adapt_seg_net,torch_0_4": published.ASN._replace(
        weights={"adversarial": 0.0005, "auxiliary_adversarial": 0.00005}
    ),
    "gta2cs:adapt_seg_net,vgg16": published.ASN_VGG,
    "gta2cs:adapt_seg_net,single,vgg16": published.ASN_VGG,
    "gta2cs:min_ent": published.ADVENT._replace(
        weights={"entropy": 0.001, "auxiliary_entropy": 0.0002, "auxiliary": 0.1}
    ),
    "gta2cs:adv_ent": published.ADVENT,
    "gta2cs:clan": published.CLAN,
    "gta2cs:clan,paper": published.CLAN._replace(
        weights={**published.CLAN.weights, "gamma": 0.0, "weight_discrepancy": 0.01}
    ),
    # Chosen here: 2.13 has no configuration.
    "gta2cs:swd": published.CLAN._replace(
        stages=published.MAX_SQUARE.stages,
        weights={"directions": 128, "discrepancy": 1.0},
    ),
    "gta2cs:bdl": published.BDL,
    "gta2cs:max_square": published.MAX_SQUARE,
    "gta2cs:max_square,multi_level": published.MULTI,
    "gta2cs:max_square,paper": published.MAX_SQUARE._replace(  # 2.4
        weights={"divisor": "pixels", "entropy": 0.1, "image_weighting": 0.2}
    ),
    "gta2cs:cag": published.CAG,
    "gta2cs:feature_to_adapt": published.F2A,
    "gta2cs:feature_to_adapt,paper": published.F2A._replace(
        stages={"adapt": published.Stage(100_000, 150_000, 7_500)},
        discriminator=(5e-5, 5e-4),
        weights={"norm": 0.00015, "weight_discrepancy": 0.01, "gamma": 0.0},
    ),
    # Chosen here: of its segmentation the result alone is published.
    "gta2cs:sapnet": published.ASN._replace(
        head="single",
        weights={
            "segmentation": 1.0,
            "domain": 0.1,
            "reversal": 1.0,
            "windows": (3, 9, 15, 21, 27, 33, 37),
            "stride": 2,
            "dropout": 0.5,
        },
    ),
    "gta2cs:dacs": published.DACS,
    **{
        f"{pair}:{words}": row._replace(**sizes, **network)
        for pair, sizes in (
            ("gta2cs", ({}, {})),
            ("synthia2cs", ({"sizes": SYNTHIA}, {"sizes": SYNTHIA_WHOLE})),
        )
        for words, row, network, sizes in (
            ("daformer", published.DAFORMER, {}, sizes[0]),
            ("daformer,resnet101_v1c", published.DAFORMER, published.V1C, sizes[0]),
            ("hrda", published.HRDA, {}, sizes[1]),
            ("hrda,resnet101_v1c", published.HRDA, published.V1C, sizes[1]),
            ("mic", published.MIC, {}, sizes[1]),
            ("mic,resnet101_v1c", published.MIC, published.V1C, sizes[1]),
        )
    },
    "gta2cs:oce": published.OCE._replace(
        weights=published.oce(0.02, 2.0, 0.5, 0.1, 0.2)
    ),
    # Chosen here: 2.3 has no weights for the slides' sums.
    "gta2cs:oce,paper": published.OCE._replace(
        weights=published.oce_sums(
            (0.02, 2.0, 0.5, 0.1, 0.2), (91 * 161 + 65 * 129, 2048, 19)
        )
    ),
    "gta2cs:oce,paper,vgg16": published.OCE._replace(
        **published.VGG16,
        weights=published.oce_sums(
            (0.1, 0.02, 0.02, 0.02, 0.2), (90 * 160 + 64 * 128, 1024, 19)
        ),
    ),
    "gta2cs:oce,vgg16": published.OCE._replace(
        **published.VGG16, weights=published.oce(0.1, 0.02, 0.02, 0.02, 0.2)
    ),
    "gta2cs:lsr": published.LSR._replace(weights=LSR_GTA5),
    "gta2cs:lsr,released": published.LSR._replace(weights=LSR_GTA5),
    # The paper's weights are not published; Delta is.
    "gta2cs:lsr,paper": published.LSR_PAPER._replace(weights={"norm_delta": 0.002}),
    "gta2cs:lsr,vgg16": published.LSR._replace(
        **published.VGG16, weights=published.lsr(0.1, 0.2, 0.01, 0.4, 0.2)
    ),
    "synthia2cs:clan": published.CLAN._replace(
        sizes=SYNTHIA, weights={"strength": 10.0}
    ),
    "synthia2cs:feature_to_adapt": published.F2A._replace(
        sizes=SYNTHIA, weights={"strength": 10.0}
    ),
    "synthia2cs:bdl": published.BDL._replace(sizes=SYNTHIA),
    # Weights chosen here: those of GTA5.
    "synthia2cs:max_square": published.MAX_SQUARE._replace(sizes=SYNTHIA),
    "synthia2cs:max_square,multi_level": published.MULTI._replace(
        sizes=((760, 1280), (640, 1280))
    ),
    "synthia2cs:oce": published.OCE._replace(
        sizes=SYNTHIA, weights=published.oce(0.02, 0.1, 1.0, 0.05, 0.0)
    ),
    "synthia2cs:oce,paper": published.OCE._replace(
        sizes=SYNTHIA,
        weights=published.oce_sums(
            (0.02, 0.1, 1.0, 0.05, 0.0), (96 * 161 + 65 * 129, 2048, 16)
        ),
    ),
    "synthia2cs:oce,paper,vgg16": published.OCE._replace(
        sizes=SYNTHIA,
        **published.VGG16,
        weights=published.oce_sums(
            (0.05, 0.05, 0.02, 0.01, 0.2), (95 * 160 + 64 * 128, 1024, 16)
        ),
    ),
    "synthia2cs:oce,vgg16": published.OCE._replace(
        sizes=SYNTHIA,
        **published.VGG16,
        weights=published.oce(0.05, 0.05, 0.02, 0.01, 0.2),
    ),
    "synthia2cs:lsr": published.LSR._replace(weights=LSR_SYNTHIA),
    "synthia2cs:lsr,paper": published.LSR_PAPER._replace(sizes=SYNTHIA),
    "cs2crosscity:max_square,tokyo": published.MAX_SQUARE._replace(
        **REAL, weights={**published.MAX_SQUARE.weights, "threshold": 0.98}
    ),
    "cs2crosscity:max_square,multi_level,tokyo": published.MULTI._replace(
        **REAL, weights={**published.MULTI.weights, "threshold": 0.98}
    ),
    # Chosen here: the weights of GTA5.
    "cs2crosscity:oce,paper,tokyo": published.OCE._replace(
        sizes=REAL["sizes"],
        lists=("train_oce", "tokyo_train"),
        weights=published.oce_sums(
            (0.02, 2.0, 0.5, 0.1, 0.2), (2 * 65 * 129, 2048, 13)
        ),
    ),
    "cs2crosscity:oce,paper,tokyo,vgg16": published.OCE._replace(
        sizes=REAL["sizes"],
        lists=("train_oce", "tokyo_train"),
        **published.VGG16,
        weights=published.oce_sums(
            (0.1, 0.02, 0.02, 0.02, 0.2), (2 * 64 * 128, 1024, 13)
        ),
    ),
    "cs2crosscity:lsr,tokyo": published.LSR._replace(
        sizes=((640, 1280), (640, 1280)),
        lists=("train_lsr", "tokyo_train"),
        weights={**LSR_GTA5, "class_frequency": "cityscapes13"},
    ),
    # A control has the network, schedule and loss on the source of its method.
    "gta2cs:batchnorm_only": published.LSR._replace(
        weights={"auxiliary": 0.0, "gamma": 0.0}
    ),
    "gta2cs:batchnorm_only,like=clan": published.CLAN._replace(
        weights={"auxiliary": 1.0, "gamma": 2.0}
    ),
    "gta2cs:batchnorm_only,like=clan,paper": published.CLAN._replace(
        weights={"gamma": 0.0}
    ),
    "gta2cs:batchnorm_only,like=adv_ent": published.ADVENT._replace(
        weights={"auxiliary": 0.1}
    ),
    "gta2cs:batchnorm_only,like=max_square,multi_level": published.MULTI._replace(
        weights={"auxiliary": 0.1}
    ),
    "gta2cs:batchnorm_only,like=bdl": published.BDL._replace(
        stages={"round_2": published.BDL_ROUND}, weights={}
    ),
    "gta2cs:batchnorm_only,like=cag": published.CAG._replace(weights={}),
    "gta2cs:source_only,like=clan": published.CLAN._replace(
        stages={"source": published.CLAN.stages["adapt"]},
        weights={"auxiliary": 1.0, "gamma": 2.0},
    ),
}


@pytest.mark.parametrize("argument", TABLE)
def test_configs_say_what_papers_and_code_say(argument, load_config):
    config, row = load_config(*argument.split(":")), TABLE[argument]
    model, domains = config["model"], [config["data"][d] for d in ("source", "target")]
    last = config[config["stages"][-1]]
    found = published.Row(
        stages={name: stage(config[name]) for name in config["stages"]},
        initial=config[config["stages"][0]]["init_from"],
        aspp=model["aspp_dilations"],
        batch_norm=model["batch_norm"],
        head=model["head"],
        augment=tuple(effects(last["augment"][d]) for d in ("source", "target")),
        lists=tuple(domain["train"] for domain in domains),
        discriminator=tuple(
            last["optimizer"][f"discriminator_{key}"] for key in ("rate", "decay")
        ),
        sizes=tuple(domain["size"] for domain in domains),
        weights={key: last["method"][key] for key in row.weights},
        backbone=model["backbone"],
        architecture=model["architecture"],
        preprocessing=config["data"]["preprocessing"],
    )
    assert found._asdict() == row._asdict()
    # 1.3, 1.8: the affine of the stem alone is frozen; all or none otherwise.
    assert model["freeze_stem_affine"] == (
        row.batch_norm == "train" and row.preprocessing == "caffe"
    )


def stage(section):
    """What of a stage `Stage` holds."""
    flat = {**section, **section["optimizer"]}
    return published.Stage(**{name: flat[name] for name in published.Stage._fields})


def effects(augment):
    """What is done to the images; every effect that is off, or None, is left out."""
    off = {"blur_probability": augment["blur_probability"], "majority": 1.0}
    return {k: v for k, v in augment.items() if v and off.get(k) != v}


def test_source_stages_have_the_images_of_their_method(load_config):
    for argument, row in TABLE.items():
        config = load_config(*argument.split(":"))
        for name in config["stages"]:
            found = effects(config[name]["augment"]["source"])
            # LSR, 2.1: patches in the pre-training of the paper alone.
            cropped = row.stages is published.LSR_PAPER.stages and name == "source"
            crop = {"crop": (512, 512)} if cropped else {}
            assert found == {**row.augment[0], **crop}, (argument, name)


@pytest.mark.parametrize("pair", [*PAIRS, "streets"])
@pytest.mark.parametrize("method", sorted(METHODS.keys() - set(common.CONTROLS)))
def test_a_control_differs_in_its_losses_alone(pair, method, load_config):
    own = load_config(pair, method)
    control = load_config(pair, f"batchnorm_only,like={method}")
    for key in own.keys() - set(own["stages"]) - {"stages"}:
        assert own[key] == control[key]
    assert own["stages"][-1] == control["stages"][-1]
    for name in control["stages"]:
        assert {**own[name], "method": 0, "pseudo_labeler": 0} == {
            **control[name],
            "method": 0,
            "pseudo_labeler": 0,
        }
    assert control[control["stages"][-1]]["method"]["name"] == "batchnorm_only"


@pytest.mark.parametrize("pair", ["gta2cs", "synthia2cs"])
@pytest.mark.parametrize("preset", ["daformer", "hrda", "mic"])
def test_daformer_and_its_successors(pair, preset, load_config):
    """next_methods.md: 0.13, 2.5 to 2.10."""
    config = load_config(pair, preset)
    hrda = preset != "daformer"
    assert config["stages"] == ("adapt",)
    assert config["adapt"]["rare_classes"] == {"temperature": 0.01, "min_pixels": 3000}
    assert config["model"]["detail"] == (0.5 if hrda else None)
    assert config["evaluation"]["window"] == ((1024, 1024) if hrda else None)
    assert config["evaluation"]["selection"] == "last"
    assert config["model"]["num_classes"] == 19
    source, target = (config["data"][domain]["space"] for domain in DOMAINS)
    known = {"gta2cs": "cityscapes", "synthia2cs": "synthia16of19"}
    assert (source, target) == (known[pair], "cityscapes")
    tiny = load_config(pair, f"{preset},tiny")
    assert tiny["model"]["backbone"] == "mit_mini"
    assert tiny["adapt"]["rare_classes"]["temperature"] == 0
    assert effects(tiny["adapt"]["augment"]["source"]) == {"flip": 0.5}


def test_the_feature_distance_holds_the_things_of_the_label_space(load_config):
    config = load_config("cs2crosscity", "hrda")
    held = config["adapt"]["method"]["distance_classes"]
    names = label_spaces.SPACES["cityscapes13"].classes
    assert [names[c] for c in held] == [
        *("light", "sign", "person", "rider", "car", "bus", "motorcycle", "bicycle")
    ]
    assert config["data"]["source"]["size"] == (1024, 2048)


def test_every_method_has_a_row():
    words = [argument.partition(":")[2].split(",") for argument in TABLE]
    methods = {
        common.parse(",".join(w for w in some if w not in CITIES)).method
        for some in words
    }
    assert set(METHODS) - {"source_continued", "target_only"} == methods


# Part of the name of the file; ResNet-101 has three.
FILES = {
    "resnet101": "weights/",
    "resnet50": "weights/resnet50-",
    "vgg16": "weights/vgg16-",
    "vgg13": "weights/vgg13-",
    "mini": "scratch",
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_no_network_is_fresh_unless_that_is_asked_for(pair, method, load_config):
    for backbone, file in FILES.items():
        arguments = (f"{method},{backbone}", f"{method},{backbone},tiny")
        if backbone.startswith("vgg") and method in ("bdl", "swd", "cag"):
            for argument in arguments:
                with pytest.raises(ValueError, match=r"needs a ResNet|is an FCN8s"):
                    load_config(pair, argument)
            continue
        whole, tiny = (load_config(pair, argument) for argument in arguments)
        first = whole[whole["stages"][0]]["init_from"]
        assert first.startswith(file)
        assert tiny[tiny["stages"][0]]["init_from"] == "scratch"
