import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.methods import mean_teacher


def test_follows_what_the_optimiser_made():
    """Parameters of steps 0 to 3 by hand: a copy, a copy, the mean, two thirds."""
    student = [{"w": jnp.array([x])} for x in (4.0, 1.0, 3.0, 9.0)]
    state = mean_teacher.Teacher(student[0], {"mean": jnp.zeros(1)})
    found = []
    for number, params in enumerate(student):
        state = mean_teacher.follow(state, params, jnp.int32(number), 0.6)
        found.append(float(state.params["w"][0]))
    np.testing.assert_allclose(found, [4, 1, 2, 0.6 * 2 + 0.4 * 9], rtol=1e-6)
    assert state.model_state == {"mean": jnp.zeros(1)}


@pytest.mark.parametrize("number", [0, 1, 1000])
def test_without_momentum_the_student_is_its_own_teacher(number):
    state = mean_teacher.Teacher({"w": jnp.array([1e3, -5.0])}, {})
    student = {"w": jnp.array([0.1, 0.7])}
    followed = mean_teacher.follow(state, student, jnp.int32(number), 0.0)
    np.testing.assert_array_equal(followed.params["w"], student["w"])


@pytest.mark.golden("dacs", "ema__.*")
def test_golden_teacher(golden):
    once = jax.jit(mean_teacher.average)
    teacher, student = {"w": jnp.ones(())}, {"w": jnp.zeros(())}
    with jax.enable_x64(True):
        unit = jax.tree.map(lambda x: x.astype(jnp.float64), (teacher, student))
        ours = [once(*unit, i, 0.99)["w"] for i in golden["ema__alpha_iters"]]
    golden.holds("ema__alpha", np.array(ours), 1e-12)

    teacher = {name: golden[f"ema__teacher_init__{name}"] for name in "wb"}
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(np.float64), teacher)
    for number, iteration in enumerate(golden["ema__iters"]):
        student = {name: golden[f"ema__student__step{number}__{name}"] for name in "wb"}
        teacher = once(teacher, student, iteration, 0.99)
        for name in "wb":
            key = f"ema__teacher__step{number}__{name}"
            golden.holds(key, teacher[name], 1e-6, scale=("1", np.float64(1)))
        with jax.enable_x64(True):
            wide_student = jax.tree.map(lambda x: x.astype(np.float64), student)
            wide = once(wide, wide_student, iteration, 0.99)
    golden.holds("ema__teacher_last__w_f64", wide["w"], 1e-12, scale="largest")
