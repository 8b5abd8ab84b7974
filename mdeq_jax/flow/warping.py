"""Flow carried along by itself, as a start for the next frame of a film."""

import numpy as np
from jaxtyping import Float
from scipy.interpolate import griddata


def splat_forward(flow: Float[np.ndarray, "*B H W 2"]) -> Float[np.ndarray, "*B H W 2"]:
    """Return the flow of the next frame under the assumption that every point moves on as before.

    The flow v of pixel p moves to p + v. A pixel of the result takes the flow that has come nearest
    to its centre. Flows that leave the open rectangle from (0, 0) to (W, H) are dropped.

    Args:
      flow: flow in pixels of its own resolution, channel 0 to the right and channel 1 down.

    Returns:
      The flow, of the same shape and dtype; 0 for a field of which no flow stays inside.

    Source: ``forward_interpolate`` of princeton-vl/RAFT and locuslab/deq-flow.

    Examples:
      >>> splat_forward(np.full((2, 3, 2), 0.5))[1, 2]
      array([0.5, 0.5])
    """
    if flow.ndim > 3:
        return np.stack([splat_forward(each) for each in flow])
    height, width, _ = flow.shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    targets = pixels + flow
    inside = ((targets > 0) & (targets < (width, height))).all(axis=-1)
    if not inside.any():
        return np.zeros_like(flow)
    return griddata(targets[inside], flow[inside], pixels, method="nearest").astype(flow.dtype)
