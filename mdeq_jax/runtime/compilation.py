"""How the commands have XLA compile; each function is called before anything is computed."""

import os
from pathlib import Path

import jax

# All kinds of fusion that YNNPACK does by default, but the convolution.
_WITHOUT_CONVOLUTIONS = (
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
)
# From the first release of jax that it was tried with to the first that it was not: an unknown flag
# would end the process.
_TRIED, _UNTRIED = (0, 10), (0, 12, 1)


def convolve_on_all_cores() -> None:
    """Leave convolutions on CPU to Eigen: unrolled training is 1.1 to 1.3 times as fast.

    So is a solve under jax 0.10. YNNPACK, which jax 0.10 to 0.12 would call, keeps most of them on
    one core. XLA_FLAGS of the user's come last and so have the last word; to a jax that this was
    not tried with, nothing is said.
    """
    if _TRIED <= jax.__version_info__ < _UNTRIED:
        os.environ["XLA_FLAGS"] = f"{_WITHOUT_CONVOLUTIONS} {os.environ.get('XLA_FLAGS', '')}"


def keep_compiled_programs() -> None:
    """Let a later process find what this one compiles, in the user's cache folder.

    A folder set by JAX_COMPILATION_CACHE_DIR comes first; JAX_ENABLE_COMPILATION_CACHE=false turns
    it off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(caches) / "mdeq_jax" / "compiled"))
