"""Settings of XLA for the commands; each function is called before anything is computed."""

import os
from pathlib import Path

import jax

# All kinds of fusion that YNNPACK does by default, except the convolution.
_WITHOUT_CONVOLUTIONS = (
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
)
# The first release of jax with which the flag was tested, and the first without a test: an unknown
# flag would end the process.
_TRIED, _UNTRIED = (0, 10), (0, 12, 1)


def convolve_on_all_cores() -> None:
    """Leave convolutions on CPU to Eigen: unrolled training is 1.1 to 1.3 times as fast.

    A solve under jax 0.10 gains as much. YNNPACK, which jax 0.10 to 0.12 would call, computes most
    convolutions on one core. The user's own XLA_FLAGS override this. Other releases of jax, with
    which it was not tested, keep their defaults.
    """
    if _TRIED <= jax.__version_info__ < _UNTRIED:
        os.environ["XLA_FLAGS"] = f"{_WITHOUT_CONVOLUTIONS} {os.environ.get('XLA_FLAGS', '')}"


def keep_compiled_programs() -> None:
    """Store compiled programs in the user's cache folder, where later processes find them.

    JAX_COMPILATION_CACHE_DIR sets another folder; JAX_ENABLE_COMPILATION_CACHE=false turns the
    cache off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(caches) / "mdeq_jax" / "compiled"))
