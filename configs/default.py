"""Every key of every run, once, with its unit. The other files start from here."""

import inspect

from ml_collections import ConfigDict, config_dict

from lsr_jax.augment import preprocess
from lsr_jax.methods import METHODS, masked


def get_config():
    config = ConfigDict()
    config.seed = 0  # initialisation, data order, augmentation
    config.num_devices = config_dict.placeholder(int)  # None: all that JAX sees
    config.cpu_devices = 1  # devices as which JAX shows a CPU; two use its cores better
    config.stages = ("source", "adapt")  # trained in this order; each is a key below
    config.recorded = ()  # JSON files of rows that the final table quotes
    config.data = data()
    config.model = model()
    config.evaluation = evaluation()
    return config


def data():
    c = ConfigDict()
    c.source = domain()
    c.target = domain()
    c.preprocessing = "caffe"  # caffe: BGR 0..255 minus mean; imagenet; unit
    c.workers = 0  # processes that read and decode; 0: threads of the main process
    return c


def domain():
    c = ConfigDict()
    c.name = ""  # a key of lsr_jax.data.sources.DATASETS, or your own data: FILE.json
    c.root = ""  # folder as downloaded or prepared; streets: cache, "" for the default
    c.preset = ""  # streets: which benchmark
    c.size = (0, 0)  # (H, W) of the network's input; (0, 0): as stored
    c.space = ""  # what the ids of its labels mean: a key of lsr_jax.data.labels.SPACES
    c.train = "train"  # split that is trained on; "a+b" for two; FILE.txt: a list
    c.val = "val"  # split that is reported, or a list
    c.on_bad_example = "stop"  # stop: name the file and end; skip: report and go on
    return c


def model():
    c = ConfigDict()
    c.architecture = "deeplabv2"  # deeplabv2; deeplabv3plus: ResNets; daformer: MiT
    c.backbone = (
        "resnet101"  # resnet101, resnet50, vgg16, vgg13, mini; mit_b0..b5, mit_mini
    )
    c.num_classes = 19
    c.head = "single"  # single; multi_level: layer3 and layer4; two_heads: layer4 twice
    c.aspp_dilations = (6, 12)  # feature cells; what ASN, MaxSquare, OCE and LSR run
    c.fusion = "sepaspp"  # of daformer's decoder: sepaspp, aspp, conv1, isa
    c.detail = config_dict.placeholder(float)  # HRDA: share of the sides; None: no HRDA
    c.drop_path = 0.1  # of the last block of a Mix Transformer
    c.head_dropout = 0.1  # of daformer's decoder
    c.batch_norm = "train"  # train, frozen_affine, eval
    c.freeze_stem_affine = True  # as MaxSquare, OCE and LSR do
    c.unbiased_variance = True  # running variance, as torch
    c.bn_group_size = config_dict.placeholder(int)  # images; None: the global batch
    c.initialisation = "released"  # released: N(0, 0.01); scratch: He-normal
    c.dtype = "float32"  # of the convolutions: float32, tf32, bfloat16
    c.remat = False  # recompute each block in the backward pass to save memory
    c.scan_blocks = True  # one loop over equal blocks of a MiT, on GPUs and TPUs
    return c


def evaluation():
    c = ConfigDict()
    c.batch_size = 10  # images
    c.batchnorm_images = (
        200  # target training images for statistics, InfoMax, agreement
    )
    c.control = "batchnorm_only"  # stage to which the table shows differences
    c.panel_images = 4  # target validation images in report/panel.png
    c.selection = "last"  # reported checkpoint: last; the best on labels of the source
    # (source_val), of the split below (target_heldout), of what is reported (oracle), or
    # on unlabelled target images: target_infomax, target_agreement
    c.every = 0  # steps between evaluations for it; 0: as checkpoint_every
    c.window = optional(None)  # (H, W) of windows over the input (HRDA); None: whole
    c.heldout = ""  # labelled split of the target domain that is not reported
    return c


def stage(method="source_only", **overrides):
    """One stage; ``overrides`` are keywords of the method's ``make``."""
    c = ConfigDict()
    c.method = method_keywords(method, overrides)
    c.feature_norm = feature_norm()
    c.masked = keywords(masked.masked, {})  # MIC's masked consistency, on any method
    c.rare_classes = rare_classes()
    c.init_from = "previous"  # previous, scratch, a stage, a workdir, a weight file
    c.pseudo_labeler = (
        "start"  # network of anchors and pseudo-labels: start, else as init_from
    )
    c.weights = ConfigDict()  # how a weight file in init_from is read
    c.weights.skip_head = False  # keep the fresh heads
    # Of several networks in the file; "ema_model": the teacher of DAFormer, HRDA or MIC.
    c.weights.entry = config_dict.placeholder(str)
    c.weights.allow_other_preprocessing = (
        False  # LSR: ImageNet's RGB weights, BGR input
    )
    c.steps = 1000
    c.batch_size = 1  # images of each domain, over all devices
    c.micro_batches = 1  # parts of it that pass the network one by one, to save memory
    c.remat_passes = False  # recompute each pass of the network in the backward pass
    c.optimizer = optimizer()
    c.augment = ConfigDict()
    c.augment.source = keywords(preprocess.augment, preprocess.AUGMENTATION["none"])
    c.augment.target = keywords(preprocess.augment, preprocess.AUGMENTATION["none"])
    c.log_every = 50  # steps
    c.checkpoint_every = 1000  # steps
    c.keep_every = 0  # steps; checkpoints at its multiples are never deleted; 0: none
    c.on_nonfinite = "stop"  # a step that is not finite: stop; skip: leave the state
    return c


def feature_norm():
    c = ConfigDict()  # Feature To Adapt's norm loss, on top of any method
    c.weight = 0.0  # 0: none
    c.delta = 0.12  # growth, in units of the norm
    c.rate = 1.5  # the weight has faded to 0 at decay_steps / rate, then turns negative
    c.decay_steps = config_dict.placeholder(int)  # steps; None: those of the stage
    return c


def rare_classes():
    c = ConfigDict()  # DAFormer's rare class sampling of source images, for any method
    c.temperature = 0.0  # of the draw of a class; 0: images are shuffled
    c.min_pixels = 3000  # more are in an image drawn for it, in the label as downloaded
    return c


def optimizer():
    c = ConfigDict()
    c.name = "sgd"  # sgd, adamw
    c.learning_rate = 2.5e-4  # of the backbone, before decay
    c.head_multiplier = 10.0  # rate of the heads over that of the backbone
    c.momentum = 0.9  # weight of the old value
    c.weight_decay = 5e-4  # sgd: added to the gradient; adamw: decoupled
    c.power = 0.9  # of the polynomial decay
    c.decay_steps = config_dict.placeholder(
        int
    )  # steps to rate 0; None: those of the stage
    c.decay_norms = True  # False: not the backbone's LayerNorms (DAFormer)
    c.warmup_steps = 0
    c.warmup = (
        "replaces"  # the decay, then the rate jumps (CLAN); multiplies (DAFormer)
    )
    c.schedule_offset = 0  # steps by which the schedule is ahead; CAG: 1
    c.duplicate_updates = "off"  # sequential: the originals' repeated parameters
    c.discriminator_rate = 1e-4  # of Adam on the discriminators, before decay
    c.discriminator_decay = 0.0  # their weight decay, added to the gradient
    return c


def method_keywords(name, overrides):
    """All keywords of a method's ``make``: its defaults, then ``overrides``."""
    config = keywords(METHODS[name].make, overrides)
    config.name = name
    return config


def keywords(function, values):
    """The keyword-only arguments of ``function``: their defaults, then ``values``."""
    config = ConfigDict()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            config[name] = optional(parameter.default)
    config.lock()
    config.update(values)
    config.unlock()
    return config


def optional(value):
    """``value``, or a place for a number or tuple where it is None."""
    return config_dict.placeholder(object) if value is None else value
