"""The model around the cell: parameters, shapes, modes, dtypes, devices."""

import dataclasses
import functools
import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from torch_weights import load_config, load_figures, load_variables, nhwc
from variables import make_images, make_variables

from mdeq_jax.implicit import DEQ, JacobianFree, Phantom, Unrolled
from mdeq_jax.solvers import Anderson, Broyden, Picard
from mdeq_jax.vision.config import Config
from mdeq_jax.vision.model import ModelConfig, create_model

FOUR = {"blocks_per_branch": (1,) * 4, "big_kernels": (0,) * 4, "expansion": 5, "num_groups": 8}
CIFAR_LARGE = ModelConfig(
    **FOUR,
    num_classes=10,
    branch_channels=(32, 64, 128, 256),
    head_channels=(14, 28, 56, 112),
    final_channels=1680,
    post_gn_affine=False,
)
IMAGENET_SMALL = ModelConfig(
    **FOUR,
    num_classes=1000,
    branch_channels=(32, 64, 128, 256),
    head_channels=(24, 48, 96, 192),
    final_channels=2048,
    post_gn_affine=True,
    downsample_times=2,
)
IMAGENET_SMALL_REG = dataclasses.replace(
    IMAGENET_SMALL, head_channels=(28, 56, 112, 224), post_gn_affine=False
)
IMAGENET_LARGE = dataclasses.replace(
    IMAGENET_SMALL, branch_channels=(80, 160, 320, 640), head_channels=(32, 64, 128, 256)
)
SMALL = ModelConfig(
    num_classes=5,
    branch_channels=(4, 8),
    expansion=2,
    num_groups=2,
    head_channels=(2, 2),
    final_channels=6,
    post_gn_affine=True,
    dropout=0.25,
)
ONE_BRANCH = dataclasses.replace(
    SMALL, branch_channels=(4,), blocks_per_branch=(1,), big_kernels=(0,), head_channels=(2,)
)
IMAGES = make_images(4, 8, 8, 3)


def setting(config=SMALL, images=IMAGES, dtype=np.float32):
    return create_model(config), make_variables(config, images, dtype)


@pytest.fixture(scope="module")
def trained():
    """A model whose equilibria are known to exist, and its compiled solve (z0, tol, step_limit)."""
    model = create_model(load_config("cls2_noaffine"))
    variables = load_variables("cls2_noaffine", np.float32)
    images = nhwc(load_figures("cls2_noaffine")["image"], np.float32)
    problem = model.apply(variables, images, method="problem")

    @jax.jit
    def run(z0, tol, step_limit):
        limits = {"tol": tol, "step_limit": step_limit}
        return model.apply(variables, images, solver=Broyden(max_steps=40), z0=z0, **limits)

    predict = functools.partial(model.apply, variables, method="predict")
    return problem, run, predict


@pytest.mark.parametrize(
    ("config", "side", "count"),
    [
        pytest.param(ModelConfig(), 32, 158_890, id="cifar-tiny"),
        pytest.param(CIFAR_LARGE, 32, 11_097_438, id="cifar-large"),
        pytest.param(IMAGENET_SMALL, 224, 16_808_936, id="imagenet-small"),
        pytest.param(IMAGENET_SMALL_REG, 224, 18_613_496, id="imagenet-small-reg"),
        pytest.param(IMAGENET_LARGE, 224, 67_063_624, id="imagenet-large"),
    ],
)
def test_parameter_count(config, side, count):
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(create_model(config).init, jax.random.key(0), images)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count


def test_init_does_not_run_the_cell_on_the_images():
    text = str(jax.make_jaxpr(create_model(SMALL).init)(jax.random.key(0), IMAGES))
    outputs = re.findall(r"f32\[(\d+),(\d+),(\d+),\d+\] = conv_general_dilated", text)
    on_images = [sides for batch, *sides in outputs if batch == str(len(IMAGES))]
    # Two of the stem, a 3×3 one in each bottleneck and one between the two.
    assert len(on_images) == 5
    # Some versions of Flax run the cell on as few pixels as it can have.
    others = [sizes for sizes in outputs if sizes[0] != str(len(IMAGES))]
    assert set(others) <= {("1", "1", "1"), ("1", "2", "2")}
    assert len(outputs) == text.count("conv_general_dilated[")


@pytest.mark.parametrize(
    ("times", "branches", "divisor"),
    [(0, 1, 1), (0, 3, 4), (1, 2, 4), (3, 1, 8)],
)
def test_stem_and_state_shapes(times, branches, divisor):
    config = ModelConfig(
        branch_channels=(4, 8, 8)[:branches],
        blocks_per_branch=(1,) * branches,
        big_kernels=(0,) * branches,
        head_channels=(2,) * branches,
        expansion=2,
        num_groups=2,
        downsample_times=times,
    )
    images = make_images(1, 2 * divisor, divisor, 3)
    model = create_model(config)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    problem = functools.partial(model.apply, method="problem")
    z0, args = jax.eval_shape(lambda *inputs: problem(*inputs)[1:], variables, images)
    side = 2**branches
    assert args.x.shape == (1, side, side // 2, 4)
    sizes = [(1, side >> i, side >> (i + 1), c) for i, c in enumerate(config.branch_channels)]
    assert [z.shape for z in z0] == sizes
    stem = variables["params"]["stem"]
    assert len([name for name in stem if name.startswith("downsample")]) == max(times, 2)
    assert ("stage0" in stem) == (times > 0 or branches > 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (make_images(8, 8, 3), r"float32\[8, 8, 3\].*\(batch, height, width, 3\)"),
        (make_images(1, 8, 8, 1), r"float32\[1, 8, 8, 1\]"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"uint8\[1, 8, 8, 3\].*floating-point"),
        (make_images(1, 9, 8, 3), r"9×8.*downsample_times 0 and 2 branches.*by 2.*fit are 10×8"),
    ],
)
def test_images_that_do_not_fit(images, message):
    model, variables = setting()
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, variables, images)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
@pytest.mark.parametrize(
    "how",
    [
        {"solver": Broyden(max_steps=3)},
        pytest.param({"solver": Anderson(max_steps=3)}, marks=pytest.mark.slow),
        {"adjoint": Unrolled(2)},
    ],
)
def test_no_images_have_no_logits(task, how):
    model = create_model(dataclasses.replace(SMALL, task=task))
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
    apply = jax.jit(functools.partial(model.apply, variables, **how))
    (logits, info), (some, _) = apply(IMAGES[:0]), jax.eval_shape(apply, IMAGES)
    assert logits.shape == (0, *some.shape[1:])
    assert [z.shape for z in info.z] == [(0, 8, 8, 4), (0, 4, 4, 8)]
    assert info.solver.steps.shape == info.solver.converged.shape == (0,)


@pytest.mark.parametrize("part", [{"solver": Picard()}, {"adjoint": JacobianFree()}])
def test_a_layer_beside_one_of_its_parts(part):
    model, variables = setting()
    with pytest.raises(ValueError, match=r"deq is DEQ\(.*give deq alone"):
        model.apply(variables, IMAGES, deq=DEQ(), **part)


def test_a_start_of_another_shape():
    model, variables = setting()
    z0 = model.apply(variables, IMAGES, method="problem").z0
    with pytest.raises(ValueError, match=r"z0 has the shapes .*\(4, 4, 4, 8\).*must have"):
        model.apply(variables, IMAGES[:2], z0=z0, method="problem")


def test_logits_are_the_heads_view_of_the_equilibrium(trained):
    (f, z0, args), run, predict = trained
    assert all((z == 0).all() for z in z0)
    logits, info = run(z0, 1e-3, 40)
    assert info.solver.converged.all()
    for a, b in zip(info.z, jax.jit(f)(info.z, args), strict=True):
        assert jnp.linalg.norm(a - b) < 2e-3 * jnp.linalg.norm(b)
    np.testing.assert_allclose(logits, predict(info.z), rtol=1e-5, atol=1e-5)


def test_traced_tolerance_and_limit_and_a_warm_start(trained):
    problem, run, _ = trained
    solver_of = lambda *inputs: run(*inputs)[1].solver  # noqa: E731
    assert (solver_of(problem.z0, 0.0, 3).steps == 3).all()
    loose, tight = solver_of(problem.z0, 0.1, 40), solver_of(problem.z0, 1e-3, 40)
    assert (loose.converged & tight.converged).all()
    assert (loose.steps < tight.steps).all()
    assert (solver_of(tight.z, 1e-3, 40).steps == 0).all()


def test_a_short_evaluation_of_an_untrained_model_depends_on_the_image():
    """Relative residuals are 1 at the start and may stay above for some steps."""
    model = create_model(SMALL)
    variables = jax.jit(model.init)(jax.random.key(0), IMAGES)
    apply = jax.jit(
        lambda limit: model.apply(variables, IMAGES, solver=Broyden(), step_limit=limit)
    )
    for limit in (1, 2, 4):
        logits, info = apply(limit)
        assert (info.solver.best_step > 0).all()
        assert len(np.unique(np.asarray(logits), axis=0)) == len(IMAGES)


def test_unrolled_is_that_many_applications_from_the_start():
    model, variables = setting()
    logits, info = jax.jit(functools.partial(model.apply, adjoint=Unrolled(3)))(variables, IMAGES)
    f, z, args = model.apply(variables, IMAGES, method="problem")
    f = jax.jit(f)
    states = [z, *(z := f(z, args) for _ in range(3))]
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(same, info.z, states[-1])
    same(logits, model.apply(variables, states[-1], method="predict"))
    flat = [np.concatenate([np.reshape(x, (4, -1)) for x in z], axis=1) for z in states]
    norm = functools.partial(np.linalg.norm, axis=1)
    trace = [norm(b - a) / norm(b) for a, b in itertools.pairwise(flat)]
    same(info.solver.trace, trace)
    np.testing.assert_array_equal(info.solver.residual, info.solver.trace[-1])
    np.testing.assert_array_equal(info.solver.steps, [3] * 4)
    assert not info.solver.converged.any()


def test_unrolled_gradient_is_ordinary_backpropagation(x64):
    images = make_images(1, 4, 4, 3, dtype=np.float64)
    model, variables = setting(ONE_BRANCH, images, np.float64)
    loss = jax.jit(lambda images: model.apply(variables, images, adjoint=Unrolled(2))[0].var())
    direction = images[..., ::-1]
    slope = jnp.vdot(jax.grad(loss)(images), direction)
    h = 1e-6
    numeric = (loss(images + h * direction) - loss(images - h * direction)) / (2 * h)
    np.testing.assert_allclose(slope, numeric, rtol=1e-5)


@pytest.mark.parametrize(("adjoint", "steps"), [(None, 4), (JacobianFree(), 0)])
def test_adjoint_and_probe_are_passed_on(adjoint, steps):
    model, variables = setting(ONE_BRANCH)
    deq = DEQ(Picard(max_steps=4, tol=0), adjoint)

    def loss(probe):
        layer = functools.partial(deq, adjoint_probe=probe)
        return model.apply(variables, IMAGES, deq=layer)[0].var()

    statistics = jax.jit(jax.grad(loss))(jnp.zeros((4, 2)))
    np.testing.assert_array_equal(statistics[:, 0], steps)


def test_training_mode_goes_by_the_batch_and_updates_its_statistics():
    model, variables = setting()
    rngs = {"dropout": jax.random.key(0)}
    apply = functools.partial(model.apply, adjoint=Unrolled(1))
    train = jax.jit(functools.partial(apply, train=True, mutable=["batch_stats"]))
    (logits, _), updated = train(variables, IMAGES, rngs=rngs)
    assert jax.tree.structure(updated) == jax.tree.structure(
        {"batch_stats": variables["batch_stats"]}
    )
    bn = lambda tree: tree["batch_stats"]["stem"]["downsample_0"]["bn"]["mean"]  # noqa: E731
    kernel = variables["params"]["stem"]["downsample_0"]["conv"]["kernel"]
    y = jax.lax.conv_general_dilated(
        IMAGES, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        bn(updated), 0.9 * bn(variables) + 0.1 * y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
    )
    evaluated, _ = jax.jit(apply)(variables, IMAGES)
    assert not np.allclose(logits, evaluated)


def test_dropout_needs_its_random_key():
    model, variables = setting()
    with pytest.raises(Exception, match="dropout"):
        model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])


def test_sharded_training_reproduces_one_device(x64):
    config = dataclasses.replace(ONE_BRANCH, dropout=0.0)
    _, variables = setting(config, dtype=np.float64)
    images = IMAGES.astype(np.float64)

    def slopes(axis_name, solver, variables, images):
        model = create_model(config, axis_name)
        how = {"adjoint": Unrolled(1)} if solver is None else {"solver": solver}

        def loss(params):
            (logits, _), updated = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"], **how
            )
            total = jnp.sum(jax.nn.log_softmax(logits)[:, 0])
            return total if axis_name is None else jax.lax.psum(total, axis_name), updated

        return jax.grad(loss, has_aux=True)(variables["params"])

    def sharded(solver):
        return jax.shard_map(
            functools.partial(slopes, "data", solver),
            mesh=jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,)),
            in_specs=(P(), P("data")),
            out_specs=P(),
        )

    ours = jax.jit(sharded(None))(variables, images)
    alone = jax.jit(functools.partial(slopes, None, None))(variables, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), ours, alone)
    # What is replicated and what varies is settled by the types: no need to compile the solve.
    solved = jax.eval_shape(sharded(Broyden(max_steps=2)), variables, images)
    assert jax.tree.map(jnp.shape, solved) == jax.tree.map(jnp.shape, ours)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_computes_in_the_dtype_of_images_and_variables(x64, dtype):
    model, variables = setting(dtype=dtype)
    logits, info = jax.eval_shape(model.apply, variables, IMAGES.astype(dtype))
    assert {logits.dtype, *(z.dtype for z in info.z)} == {jnp.dtype(dtype)}


def test_everything_but_images_and_variables_is_by_keyword():
    kinds = [p.kind for p in inspect.signature(create_model(SMALL).__call__).parameters.values()]
    assert set(kinds[1:]) == {inspect.Parameter.KEYWORD_ONLY}


def test_injection_into_every_resolution():
    """The lower ones get the mean of each square, by a 1×1 convolution of their own."""
    config = dataclasses.replace(SMALL, injection="all")
    model, variables = setting(config, IMAGES)
    f, z0, args = model.apply(variables, IMAGES, method="problem")
    (lower,) = args.lower
    kernel = variables["params"]["lower_injections"]["branch_1"]["kernel"]
    squares = np.asarray(args.x).reshape(len(IMAGES), lower.shape[1], 2, lower.shape[2], 2, -1)
    expected = squares.mean(axis=(2, 4)) @ np.asarray(kernel)[0, 0]
    np.testing.assert_allclose(lower, expected, rtol=1e-4, atol=1e-5)
    moved = f(z0, args._replace(lower=(lower + 1,)))
    assert not np.allclose(moved[1], f(z0, args)[1])
    without = create_model(SMALL).apply(variables, IMAGES, method="problem").args.lower
    assert without == ()


@pytest.mark.slow
def test_sampled_states_go_through_the_phantom():
    model, variables = setting(SMALL, IMAGES)
    solver = Picard(max_steps=6, tol=0.0)
    phantom = Phantom(2, 0.5)
    deq = DEQ(solver, sample_at=(2, 4), phantom=phantom)
    _, info = model.apply(variables, IMAGES, deq=deq)
    for i, steps in enumerate((2, 4)):
        options = {"solver": solver, "adjoint": phantom, "step_limit": steps}
        expected = model.apply(variables, IMAGES, **options)[1].z
        for ours, z in zip(info.sampled[i], expected, strict=True):
            np.testing.assert_allclose(ours, z, rtol=1e-3, atol=1e-4)
    assert model.apply(variables, IMAGES, solver=solver)[1].sampled == ()


def test_a_config_that_is_no_architecture():
    with pytest.raises(ValueError, match="config is a Config; it must be a ModelConfig"):
        create_model(Config())
