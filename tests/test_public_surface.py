"""What `import mdeq_jax` gives, and what it does not load."""

import subprocess
import sys

import pytest

import mdeq_jax as mx

PUBLIC = [
    "Adjoint",
    "Anderson",
    "Broyden",
    "Cotangent",
    "DEQ",
    "Exact",
    "ForwardProblem",
    "JacobianFree",
    "ModelConfig",
    "Neumann",
    "Optimum",
    "Phantom",
    "Picard",
    "Point",
    "Shine",
    "Solution",
    "Solver",
    "SolverResult",
    "Status",
    "Steps",
    "Unrolled",
    "alignment",
    "create_model",
    "equilibrium",
    "gradient_error",
    "import_torch",
    "initial_state",
    "jacobian_loss",
    "load",
    "optimise",
    "rolled",
    "solve",
    "spectral_radius",
]


def test_every_public_name_is_there():
    assert sorted(mx.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(mx, name).__doc__


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'equilibria'"):
        mx.equilibria  # noqa: B018


def test_a_name_misspelt_and_those_there_are():
    assert {*PUBLIC} <= {*dir(mx)}
    command = [sys.executable, "-c", "import mdeq_jax; mdeq_jax.equilibrum"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Did you mean: 'equilibrium'?" in done.stderr


def test_names_whose_extra_is_missing():
    code = """
import sys
sys.modules["flax"] = None
import mdeq_jax as mx
mx.solve
for name in ("create_model", "import_torch", "load", "ModelConfig"):
    try:
        getattr(mx, name)
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith("flax")
        assert 'pip install "mdeq_jax[vision]"' in line


def test_a_command_whose_extra_is_missing():
    code = "import sys; sys.modules['absl'] = None; import mdeq_jax.commands.train"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: absl")
    assert 'pip install "mdeq_jax[vision]"' in last


def loaded_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after some code."""
    report = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    return set(subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())


def test_the_layer_alone_needs_no_more_than_jax():
    heavy = {"flax", "optax", "orbax", "grain", "tensorflow_datasets", "matplotlib", "sklearn"}
    used = loaded_by("import mdeq_jax as mx; mx.equilibrium, mx.solve, mx.Broyden, mx.Exact")
    assert "jax" in used
    assert not used & heavy


def test_the_model_needs_no_data_training_or_plotting_packages():
    heavy = {"optax", "grain", "tensorflow_datasets", "matplotlib", "sklearn", "tensorboardX"}
    used = loaded_by("import mdeq_jax as mx; mx.create_model(mx.ModelConfig())")
    assert "flax" in used
    # Flax itself may load optax or orbax; nothing of ours asks for them.
    assert not used & (heavy - loaded_by("import flax.linen"))
