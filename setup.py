"""What pyproject.toml cannot say.

Dependencies stand in the requirements files alone, and configs/ is installed as mdeq_jax.configs.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup


def read(name: str) -> str:
    """Return the text of a requirements file."""
    return Path(__file__).with_name(name).read_text()


def requirements(text: str) -> list[str]:
    """Return its requirements, without comments and without the files that it includes."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


_, *sections = re.split(r"^# \[(\w*)\]", read("requirements.txt"), flags=re.MULTILINE)
of = dict(zip(sections[::2], (requirements("#" + text) for text in sections[1::2]), strict=True))
pictures = [*of["train"], *of["viz"], *of["images"]]
vision = [*pictures, *of["vision"]]
cuda, dev, docs, prepare, tpu = (
    requirements(read(f"requirements-{name}.txt"))
    for name in ("cuda", "dev", "docs", "prepare", "tpu")
)

setup(
    install_requires=of[""],
    extras_require={
        "train": of["train"],
        "vision": vision,
        "flow": [*pictures, *of["flow"]],
        "inverse": pictures,
        "reasoning": [*of["train"], *of["viz"], *of["reasoning"]],
        "viz": of["viz"],
        "cuda": cuda,
        "tpu": tpu,
        "docs": docs,
        "dev": [*vision, *of["flow"], *of["reasoning"], *of["tests"], *dev],
        "prepare": [*vision, *prepare],
    },
    packages=[*find_packages(include=["mdeq_jax*"]), "mdeq_jax.configs"],
    package_dir={"mdeq_jax.configs": "configs"},
)
