"""Flips and quarter turns: of images and optical flow, and back again of masks and shifts."""

import torch
from torch import Tensor

from contrail_data.labels.predictor import Symmetries


def symmetry_operations(symmetries: Symmetries) -> list[tuple[bool, int]]:
    """List the operations of a group of symmetries.

    Args:
        symmetries: The group.

    Returns:
        For each operation whether it first mirrors left to right, and the number of quarter turns after that.
    """
    if symmetries == Symmetries.NONE:
        return [(False, 0)]
    turns = range(0, 4, 2 if symmetries == Symmetries.FLIPS else 1)
    return [(flip, turn) for flip in (False, True) for turn in turns]


def turn(x: Tensor, flip: bool, turns: int) -> Tensor:
    """Turn images.

    Args:
        x: Images of any kind, (..., h, w).
        flip: Whether they are first mirrored left to right.
        turns: Number of quarter turns after that.

    Returns:
        The turned images.
    """
    return torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1)) if flip or turns else x


def turn_flow(flow_btdhw: Tensor, flip: bool, turns: int) -> Tensor:
    """Turn optical flow with its frames: its vectors move, and turn.

    Args:
        flow_btdhw: Flow (down, right).
        flip: Whether it is first mirrored left to right.
        turns: Number of quarter turns after that.

    Returns:
        The flow of the turned frames.
    """
    moved = turn(flow_btdhw, flip, turns)
    if flip:
        moved = torch.stack([moved[:, :, 0], -moved[:, :, 1]], dim=2)
    for _ in range(turns % 4):
        moved = torch.stack([-moved[:, :, 1], moved[:, :, 0]], dim=2)
    return moved


def turn_back(x: Tensor, flip: bool, turns: int) -> Tensor:
    """Undo `turn`.

    Args:
        x: Turned images, (..., h, w).
        flip: As for `turn`.
        turns: As for `turn`.

    Returns:
        The images.
    """
    if not (flip or turns):
        return x
    back = torch.rot90(x, -turns, (-2, -1))
    return back.flip(-1) if flip else back


def shift_back(shift: tuple[float, float], flip: bool, turns: int) -> tuple[float, float]:
    """Find how a shift in a turned image appears in the original image.

    Args:
        shift: (down, right) in the turned image.
        flip: As for `turn`.
        turns: As for `turn`.

    Returns:
        (down, right) in the original image.
    """
    dy, dx = shift
    for _ in range(turns % 4):
        dy, dx = dx, -dy
    return (dy, -dx) if flip else (dy, dx)
