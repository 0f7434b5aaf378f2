import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
from held import holds

from lsr_jax import losses, models

DOMAINS = ("source", "target")
CROSS_ENTROPY = {
    "source": lambda logits, **kw: losses.domain_loss(logits, domain="source", **kw),
    "target": lambda logits, **kw: losses.domain_loss(logits, domain="target", **kw),
}
NAMES = ("conv1", "conv2", "conv3", "conv4", "classifier")
INPUTS = {"adaptsegnet": lambda p: p, "advent": losses.self_information}


def slow(logits, weights, label, kind):
    terms = []
    for place in np.ndindex(weights.shape):
        d = float(logits[place][0])
        p = 1 / (1 + np.exp(-d))
        bce = -label * np.log(p) - (1 - label) * np.log(1 - p)
        term = bce if kind == "cross_entropy" else (d - label) ** 2
        terms.append(weights[place] * term)
    return np.mean(terms)


@pytest.mark.parametrize("kind", ["cross_entropy", "least_squares"])
@pytest.mark.parametrize(("domain", "label"), [("source", 0), ("target", 1)])
def test_against_loops(domain, label, kind):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 1)).astype(np.float32)
    weights = rng.uniform(size=(2, 3, 4)).astype(np.float32)

    def loss(logits, weights):
        return losses.domain_loss(logits, weights, domain=domain, kind=kind)

    for ours in (loss, jax.jit(loss)):
        np.testing.assert_allclose(
            ours(logits, weights), slow(logits, weights, label, kind), rtol=1e-5
        )
    plain = losses.domain_loss(logits, domain=domain, kind=kind)
    expected = slow(logits, np.ones_like(weights), label, kind)
    np.testing.assert_allclose(plain, expected, rtol=1e-5)


def test_by_hand():
    logits = jnp.array([[[[0.0]], [[2.0]]]])
    for domain, last in (("source", 4.0), ("target", 1.0)):
        first = 0.0 if domain == "source" else 1.0
        ours = losses.domain_loss(logits, domain=domain, kind="least_squares")
        np.testing.assert_allclose(ours, (first + last) / 2)
    ours = losses.domain_loss(logits[:, :1], domain="source")
    np.testing.assert_allclose(ours, np.log(2), rtol=1e-6)
    with pytest.raises(ValueError, match="domain"):
        losses.domain_loss(logits, domain="both")
    with pytest.raises(ValueError, match="kind"):
        losses.domain_loss(logits, domain="source", kind="hinge")


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[[-1e4], [0.0], [1e4]]]])
    for domain, slope in (
        ("source", [0, 1 / 6, 1 / 3]),
        ("target", [-1 / 3, -1 / 6, 0]),
    ):
        value, gradient = jax.value_and_grad(CROSS_ENTROPY[domain])(logits)
        np.testing.assert_allclose(value, (1e4 + np.log(2)) / 3, rtol=1e-6)
        np.testing.assert_allclose(gradient[0, 0, :, 0], slope, rtol=1e-6)


@pytest.mark.golden("advent", "bce__.*")
def test_golden_cross_entropy(golden):
    logits = golden["bce__y_pred"]
    for label, domain in enumerate(DOMAINS):
        gradients = {"logits": (logits, "grad")}
        stem, loss = f"bce__label{label}__", CROSS_ENTROPY[domain]
        holds(golden, stem, loss, gradients, wide=False)


def discriminator(name):
    """The name-seeded discriminator: its apply, and its parameters in torch's order."""
    tensors = [x.astype(np.float32) for x in seeded.state_dict(name).values()]
    params = {}
    for layer, (kernel, bias) in zip(
        NAMES, zip(tensors[::2], tensors[1::2], strict=True), strict=True
    ):
        params[layer] = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
    return models.discriminator(19)[1], params


@pytest.mark.parametrize(
    ("file", "name", "stems"),
    [
        pytest.param(
            "adaptsegnet",
            "fc_discriminator",
            {"vanilla": "cross_entropy", "ls": "least_squares"},
            marks=pytest.mark.golden(
                "adaptsegnet", "disc__(logits|out.*|param_names|.*label.*)"
            ),
        ),
        pytest.param(
            "advent",
            "advent_discriminator",
            {"": "cross_entropy"},
            marks=pytest.mark.golden(
                "advent", "disc__(logits|out.*|param_names|label.*)"
            ),
        ),
    ],
)
def test_golden_through_a_discriminator(golden, file, name, stems):
    apply, params = discriminator(name)
    assert list(golden["disc__param_names"]) == list(seeded.state_dict(name))
    logits = golden["disc__logits"]

    @jax.jit
    def output(params, logits):
        return apply(params, INPUTS[file](jax.nn.softmax(logits)))

    @jax.jit
    def pull(params, logits, cotangent):
        return jax.vjp(output, params, logits)[1](cotangent)

    out = output(params, logits)
    # The network computes in float32, also against the float64 records.
    golden.holds("disc__out", out, 1e-4)
    golden.holds("disc__out_f64", out, 1e-4)
    for gan, kind in stems.items():
        for label, domain in enumerate(DOMAINS):
            stem = f"disc__{gan}__label{label}__".replace("____", "__")

            def loss(out, domain=domain, kind=kind):
                return losses.domain_loss(out, domain=domain, kind=kind)

            value, cotangent = jax.value_and_grad(loss)(out)
            golden.holds(f"{stem}loss", value, 1e-4)
            with jax.enable_x64(True):
                wide = loss(jnp.asarray(golden["disc__out_f64"]))
                golden.holds(f"{stem}loss_f64", wide)
            of_params, of_logits = pull(params, logits, cotangent)
            lengths = [
                jnp.linalg.norm(of_params[layer][leaf].ravel())
                for layer in NAMES
                for leaf in ("kernel", "bias")
            ]
            golden.holds(f"{stem}param_grad_l2", jnp.stack(lengths), 1e-4)
            if f"{stem}grad_logits_l2" in golden.arrays:
                length = jnp.linalg.norm(of_logits.ravel())
                golden.holds(f"{stem}grad_logits_l2", length, 1e-4)
            if f"{stem}grad_logits_s3" in golden.arrays:
                found = of_logits[:, ::3, ::3]
                golden.holds_gradient(f"{stem}grad_logits_s3", found)
