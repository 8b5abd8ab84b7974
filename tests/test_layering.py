"""The order of the package: an import may only point to an earlier line of the layout."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mdeq_jax"
LAYOUT = (
    "checks",
    "solvers",
    "implicit",
    "stability",
    "layers",
    "torch_files",
    "runtime",
    "training",
    "images",
    "vision",
    "reasoning",
    "flow",
    "inverse",
    "language",
    "apps",
    "applications",
    "viz",
    "comparison",
    "commands",
)
# Rooms of one application each, which do not know each other.
APPLICATIONS = ("vision", "reasoning", "flow", "inverse", "language", "apps")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source, path):
    """Absolute names that a module imports, anywhere in it, each as far as it names modules.

    `from a.b import c` counts as a.b.c, for c may be a module; relative imports are resolved.
    """
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(source, path):
    """What a module may not import: later lines of the layout, and the root, which comes last.

    A package's `__main__` is a command: it may import all, and nothing may import it.
    """
    own = module_name(path).split(".")[1]
    allowed = LAYOUT if path.name == "__main__.py" else LAYOUT[: LAYOUT.index(own) + 1]
    for name in imports(source, path):
        root, *rest = name.split(".")
        if root == "mdeq_jax" and (not rest or rest[0] not in allowed or "__main__" in rest):
            yield name


def identify(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_point_to_earlier_lines(path):
    assert module_name(path).split(".")[1] in LAYOUT, "not in the layout: give it a line"
    assert list(violations(path.read_text(), path)) == []


@pytest.mark.parametrize(
    "path", [p for p in MODULES if module_name(p).split(".")[1] in LAYOUT[:4]], ids=identify
)
def test_the_layer_knows_only_jax(path):
    known = {"jax", "jaxtyping", "numpy", "mdeq_jax", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imports(path.read_text(), path)} <= known


@pytest.mark.parametrize(
    "path", [p for p in MODULES if module_name(p).split(".")[1] in APPLICATIONS], ids=identify
)
def test_applications_do_not_import_each_other(path):
    others = {f"mdeq_jax.{room}" for room in APPLICATIONS} - {
        ".".join(module_name(path).split(".")[:2])
    }
    imported = {".".join(name.split(".")[:2]) for name in imports(path.read_text(), path)}
    assert not imported & others


def edges(package):
    """Pairs (importer, imported) of modules within one folder."""
    paths = {
        module_name(path): path for path in MODULES if module_name(path).split(".")[1] == package
    }
    for name, path in paths.items():
        for imported in imports(path.read_text(), path):
            candidates = (imported, imported.rpartition(".")[0])
            found = next((c for c in candidates if c in paths), None)
            if found and found != name:
                yield name, found


@pytest.mark.parametrize("package", LAYOUT)
def test_no_cycles_within_a_folder(package):
    remaining = set(edges(package))
    while remaining:
        importers = {importer for importer, _ in remaining}
        resting = {edge for edge in remaining if edge[1] not in importers}
        assert resting, f"a cycle among {sorted(importers)}"
        remaining -= resting


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from mdeq_jax.solvers import solve", []),
        ("from mdeq_jax import solvers", []),
        ("from ..solvers.norms import norm", []),
        ("import jax", []),
        ("from mdeq_jax.vision.model import create_model", ["mdeq_jax.vision.model.create_model"]),
        ("def f():\n    import mdeq_jax.training.loop", ["mdeq_jax.training.loop"]),
        ("from .. import viz", ["mdeq_jax.viz"]),
        ("import mdeq_jax", ["mdeq_jax"]),
        ("from mdeq_jax import solve", ["mdeq_jax.solve"]),
        ("from mdeq_jax.solvers.__main__ import main", ["mdeq_jax.solvers.__main__.main"]),
    ],
)
def test_the_check_sees(source, found):
    assert list(violations(source, PACKAGE / "implicit" / "new.py")) == found


def test_a_command_may_import_all():
    source = "from mdeq_jax.training.loop import train\nfrom mdeq_jax import solve"
    assert list(violations(source, PACKAGE / "viz" / "__main__.py")) == ["mdeq_jax.solve"]
