"""What pyproject.toml cannot say.

Dependencies stand in the requirements files alone, and configs/ is installed as mdeq_jax.configs.
"""

from pathlib import Path

from setuptools import find_packages, setup


def read(name: str) -> str:
    """Return the text of a requirements file."""
    return Path(__file__).with_name(name).read_text()


def requirements(text: str) -> list[str]:
    """Return its requirements, without comments and without the files that it includes."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


run, tests = map(requirements, read("requirements.txt").split("# The tests alone"))
extras = {
    name: requirements(read(f"requirements-{name}.txt"))
    for name in ("cuda", "dev", "docs", "prepare", "tpu")
}

setup(
    install_requires=run,
    extras_require={**extras, "dev": [*tests, *extras["dev"]]},
    packages=[*find_packages(include=["mdeq_jax*"]), "mdeq_jax.configs"],
    package_dir={"mdeq_jax.configs": "configs"},
)
