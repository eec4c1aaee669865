"""What an epoch shows of a run on the terminal: a line."""

from dataclasses import dataclass

from contrail_data.progress import duration, pace
from contrail_train.evaluation.score import EpochScores
from contrail_train.runs.checkpoint import TrainingState
from contrail_train.training.setup import Setup


@dataclass(frozen=True, kw_only=True)
class EpochPace:
    """What the steps of an epoch amount to, as far as this process took them."""

    loss: float
    """Mean loss of the steps."""
    steps_per_s: float


def epoch_line(setup: Setup, state: TrainingState, scores: EpochScores, measured: EpochPace | None) -> str:
    """Describe an epoch in a line.

    Args:
        setup: The run.
        state: Where it stands, this epoch included.
        scores: Scores of the held-out records.
        measured: Loss and speed; None if an earlier process took the steps.

    Returns:
        Such as "epoch 2/3: loss 0.0312, hold-out loss 0.0281, Dice 0.4112, ..., best so far".
    """
    epoch, epochs, steps = state.step // setup.steps_per_epoch, setup.config.epochs, setup.steps_per_epoch
    values = {"loss": None if measured is None else measured.loss, "hold-out loss": scores.loss}
    values |= {"Dice": scores.dice, "precision": scores.precision, "recall": scores.recall}
    parts = [f"{name} {value:.4f}" for name, value in values.items() if value is not None]
    parts += [pace(measured.steps_per_s, "steps")] if measured else []
    parts.append(duration(state.elapsed))
    if state.gained == state.step:
        parts.append("best so far")
    elif state.gained:
        parts.append(f"best {state.best[0][0]:.4f} in epoch {state.gained // steps}")
    return f"epoch {epoch:>{len(str(epochs))}}/{epochs}: {', '.join(parts)}"
