"""The latent terms against the recorded values of the LSR paper's equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import losses, prototypes

C = 19


def cast(double, *arrays):
    """The recorded float32 inputs, in the precision of the run."""
    dtype = jnp.float64 if double else jnp.float32
    return [jnp.asarray(a, dtype if a.dtype.kind == "f" else a.dtype) for a in arrays]


def step_inputs(golden, domain):
    return golden[f"feats_{domain}__step1"], golden[f"labels_{domain}__step1"]


def paper_step(source, target, previous, eta):
    """Equations 2, 3, 5 and 6: ``{key: value}`` and ``{key: gradient}``."""
    labels, (target_features, target_labels) = source[1], target

    def refreshed(features):
        means, counts = prototypes.class_means(features, labels, num_classes=C)
        state = prototypes.Prototypes(previous, (previous > 0).any(-1))
        return means, counts, prototypes.update(state, means, counts, momentum=eta)

    def full(features):
        new = refreshed(features)[2]
        return losses.clustering(features, labels, *new, prototype_gradient=True)

    def perpendicular(features):
        means, counts, _ = refreshed(features)
        return losses.perpendicularity(means, counts > 0)

    means, counts, new = refreshed(source[0])
    clustering = jax.value_and_grad(losses.clustering)
    on_source = clustering(*source, *new)
    on_target = clustering(target_features, target_labels, *new)
    perp = jax.value_and_grad(perpendicular)(source[0])
    values = {
        "paper_proto_new": new.mean,
        "paper_clust_source_value": on_source[0],
        "paper_clust_target_value": on_target[0],
        "paper_perp_value": perp[0],
    }
    gradients = {
        "paper_clust_source_grad": on_source[1],
        "paper_clust_source_grad_full": jax.grad(full)(source[0]),
        "paper_clust_target_grad": on_target[1],
        "paper_perp_grad": perp[1],
        "paper_perp_grad_prototypes": jax.grad(losses.perpendicularity)(
            means, counts > 0
        ),
    }
    over_all = losses.clustering(*source, *new, classes="all")
    return values, gradients, over_all / on_source[0]


@pytest.mark.golden(
    "lsr",
    "(feats|labels)_(source|target)__step1",
    "paper_(eta|proto_prev|proto_new|clust.*|perp.*)",
)
@pytest.mark.parametrize("double", [False, True])
def test_golden_paper_clustering_and_perpendicularity(golden, double):
    with jax.enable_x64(double):
        source = cast(double, *step_inputs(golden, "source"))
        target = cast(double, *step_inputs(golden, "target"))
        (previous,) = cast(double, golden["paper_proto_prev"])
        eta = float(golden["paper_eta"])
        values, gradients, share = jax.jit(paper_step)(source, target, previous, eta)
    for key, value in values.items():
        golden.holds(key, value, rtol=1e-12 if double else 1e-6)
    for key, gradient in gradients.items():
        golden.holds_gradient(key, gradient)
    for domain, labels in (("source", source[1]), ("target", target[1])):
        present = golden[f"paper_clust_{domain}_num_classes"]
        assert present == len(np.unique(labels[labels < C]))
    present = golden["paper_clust_source_num_classes"]
    np.testing.assert_allclose(share, present / C, rtol=1e-6)


@pytest.mark.golden("lsr", "feats_source__step[01]", "paper_norm_.*")
@pytest.mark.parametrize("double", [False, True])
def test_golden_paper_norm(golden, double):
    rtol = 1e-12 if double else 1e-6
    with jax.enable_x64(double):
        (before,) = cast(double, golden["feats_source__step0"])
        norm = losses.mean_norm(before)
        golden.holds("paper_norm_fbar", norm, rtol)
        sides = {
            "source": (golden["feats_source__step1"], "both"),
            "target": (golden["paper_norm_feats_target"], "below"),
        }
        for domain, (features, side) in sides.items():
            for name, delta in (("0p002", 0.002), ("0p1", 0.1)):
                loss = functools.partial(losses.norm_alignment, delta=delta, side=side)
                ours = jax.jit(jax.value_and_grad(loss))(*cast(double, features), norm)
                stem = f"paper_norm_{domain}_d{name}_"
                golden.holds(f"{stem}value", ours[0], rtol)
                golden.holds_gradient(f"{stem}grad", ours[1])
