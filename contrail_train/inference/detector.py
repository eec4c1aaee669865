"""Networks combined into one detector: stored frames in; probability, record score and agreement out.

A run has one network, a pipeline or an ensemble several: their masks are averaged with weights, and so are the scores
that the gate compares. Everything happens in one `nn.Module`, so an exported file does exactly what a run directory
does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from contrail_data.labels.predictor import FlowKind, Symmetries
from contrail_train.config.schema import RunConfig
from contrail_train.data.augment import resample, to_label_frame
from contrail_train.data.flow import WindowFlow, warp_frames
from contrail_train.data.normalise import normalisation_of, normalise
from contrail_train.inference.flow import flow_method
from contrail_train.inference.turns import shift_back, symmetry_operations, turn, turn_back, turn_flow

Shift = tuple[float, float]
"""(down, right) in pixels."""
Weights = Mapping[str, float]
"""Weight by the name of a network."""


@dataclass(frozen=True)
class View:
    """How stored frames become the input of a network."""

    offsets: tuple[int, ...]
    """Input frames relative to the predicted frame, ascending."""
    mean_c: Tensor
    std_c: Tensor
    """Mean and standard deviation of values in [0, 1] over the train split, 1 for a channel that never varies; or
    those of ImageNet."""
    each_image: bool
    """Normalise each sample by its own mean and standard deviation instead."""
    size: tuple[int, int] | None
    """Height and width that the network works at; None for the stored size."""
    flow: WindowFlow | None = None
    """Computes the flow by which frames are warped onto the labelled one or which the network sees; None if neither."""

    @property
    def sees_flow(self) -> bool:
        """Whether the network has a stream for optical flow."""
        return self.flow is not None and self.flow.is_input


def view_of(
    config: RunConfig, statistics: Mapping[str, Any], device: torch.device, *, keeps_flow: bool = False
) -> View:
    """Describe how the network of a run sees stored frames.

    Args:
        config: Settings of the run.
        statistics: `mean` and `std` of each channel of the training data.
        device: Device of the network.
        keeps_flow: Whether as much optical flow is kept in memory as the settings allow, to see windows again.

    Returns:
        The view.

    Raises:
        ContrailError: If the weights of a method of optical flow cannot be used.
    """
    side = config.model.image_size
    return View(
        tuple(config.data.frames),
        *normalisation_of(config.data, statistics, device),
        size=None if side is None else (side, side),
        flow=_flow_of(config, device, keeps_flow),
    )


def _flow_of(config: RunConfig, device: torch.device, keeps_flow: bool) -> WindowFlow | None:
    warps, is_input, flow = config.data.warp, config.model.flow_stream is not None, config.data.flow
    if not warps and not is_input:
        return None
    method = flow_method(FlowKind(flow.method), flow.weights, str(device))
    labelled, room = config.data.frames.index(0), int(flow.memory * 2**30) if keeps_flow else 0
    return WindowFlow(method, labelled, warps=warps, is_input=is_input, room=room)


def prepare(image_btchw: Tensor, flow_btdhw: Tensor | None, view: View) -> Tensor:
    """Normalise stored frames, and warp them onto the labelled one if the network sees them so.

    Args:
        image_btchw: Frames as stored.
        flow_btdhw: Their flow; None if the view has none.
        view: How the network sees them.

    Returns:
        float32 of the same shape as the frames.
    """
    x_btchw = normalise(image_btchw, view)
    if flow_btdhw is None or view.flow is None or not view.flow.warps:
        return x_btchw
    return warp_frames(x_btchw, flow_btdhw, view.flow.labelled)


class Network(nn.Module):
    """A trained network with its normalisation; its outputs are probabilities.

    Args:
        model: The network.
        view: How it sees stored frames.
        mask_shift: Offset of its masks from the image; (0, 0) if it was trained with the label shift corrected.
    """

    def __init__(self, model: nn.Module, view: View, mask_shift: Shift = (0.0, 0.0)):
        super().__init__()
        self.model = model
        self.offsets, self.each_image, self.size = view.offsets, view.each_image, view.size
        self.flow = view.flow
        self.register_buffer("mean_c", view.mean_c)
        self.register_buffer("std_c", view.std_c)
        self.mask_shift = mask_shift
        self.channels: list[int] | None = None
        """Its channels among those of a detector's windows; None for all of them."""

    @property
    def view(self) -> View:
        """How the network sees stored frames."""
        return View(self.offsets, self.mean_c, self.std_c, self.each_image, self.size, self.flow)  # type: ignore[arg-type]

    def flow_of(self, window_btchw: Tensor) -> Tensor | None:
        """Compute the flow that the network needs.

        Args:
            window_btchw: The frames at its offsets, as stored.

        Returns:
            The flow (b, t, 2, h, w); None if it needs none.
        """
        return None if self.flow is None else self.flow.of_batch(window_btchw)

    def forward(self, window_btchw: Tensor, flow_btdhw: Tensor | None = None) -> dict[str, Tensor]:
        """Predict windows of frames.

        Args:
            window_btchw: The frames at its offsets, as stored.
            flow_btdhw: Their flow, if the network needs it; see `flow_of`.

        Returns:
            By head: `probability_bhw` at the stored size, and `record_b`, the probability of any contrail or the Dice
            that the mask is expected to have.
        """
        x_btchw = prepare(window_btchw, flow_btdhw, self.view)
        if self.size is not None:
            x_btchw = resample(x_btchw, self.size)
        inputs = [x_btchw, window_btchw.shape[-2:]]
        if flow_btdhw is not None and self.view.sees_flow:
            inputs.append(resample(flow_btdhw.float(), (x_btchw.shape[-2], x_btchw.shape[-1])))
        output = self.model(*inputs)
        probabilities = {}
        if "logits_b1hw" in output:
            probabilities["probability_bhw"] = torch.sigmoid(output["logits_b1hw"].float())[:, 0]
        if "record_logit_b1" in output:
            probabilities["record_b"] = torch.sigmoid(output["record_logit_b1"].float())[:, 0]
        if "score_logit_b1" in output:  # no model has both
            probabilities["record_b"] = torch.sigmoid(output["score_logit_b1"].float())[:, 0]
        return probabilities


class Prediction(NamedTuple):
    """Prediction of one frame for each window."""

    probability_bhw: Tensor
    """float32. (b, 1, 1) if there are only classifiers of records: a record is then a mask of one pixel."""
    score_b: Tensor
    """float32, what the gate compares."""
    agreement_b: Tensor
    """float32, agreement between the masks of several networks: the sum of their lowest over the sum of their highest
    probabilities, 1 added to both so that empty frames agree. 1 for a single network."""


Detect = Callable[[Tensor, Tensor | None], Prediction]
"""Takes windows of stored frames (b, t, c, h, w), uint8 or float, and where the predicted frame has pixels, bool
(b, h, w) or None for everywhere. Scores ignore predictions where there is no pixel."""


class Detector(nn.Module):
    """Networks, and how their outputs are combined.

    Args:
        networks: The networks by name.
        mask: Weight of each network's mask.
        gate: Weight of each network's record score.
        top_k: Number of highest pixels whose mean is the record score of a network that is not a classifier.
        classifiers: Names of the networks whose record or score head gives the record score.
        symmetries: Transformed copies of the input to average over.
    """

    def __init__(
        self,
        networks: Mapping[str, Network],
        mask: Weights,
        gate: Weights,
        *,
        top_k: int,
        classifiers: Sequence[str] = (),
        symmetries: Symmetries = Symmetries.NONE,
    ):
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.mask, self.gate, self.classifiers = dict(mask), dict(gate), tuple(classifiers)
        self.top_k, self.symmetries = top_k, symmetries
        self.offsets = tuple(sorted({offset for network in networks.values() for offset in network.offsets}))
        shifts = {network.mask_shift for network in networks.values()}
        # One common shift is corrected by the resampling onto the label grid; different ones before averaging.
        self.mask_shift: Shift = shifts.pop() if len(shifts) == 1 and symmetries == Symmetries.NONE else (0.0, 0.0)

    def network_outputs(
        self, window_btchw: Tensor, valid_bhw: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run each network on its own frames.

        Args:
            window_btchw: Windows of stored frames at `offsets`.
            valid_bhw: Where the predicted frame has pixels; None for everywhere.

        Returns:
            Masks (b, h, w) and record scores (b), both by network.
        """
        masks, scores = {}, {}
        for name, network in self.networks.items():
            own_frames = [self.offsets.index(offset) for offset in network.offsets]  # type: ignore[union-attr]
            own_btchw = window_btchw[:, own_frames]
            if network.channels is not None:
                own_btchw = own_btchw[:, :, network.channels]  # type: ignore[index]
            output = self._average_over_symmetries(network, own_btchw)  # type: ignore[arg-type]
            if "probability_bhw" in output:
                masks[name] = output["probability_bhw"].clamp(0, 1)
            if name in self.classifiers:
                scores[name] = output["record_b"]
            else:
                valid_p_bhw = masks[name] if valid_bhw is None else torch.where(valid_bhw, masks[name], 0.0)
                pixels_bn = valid_p_bhw.flatten(1)
                scores[name] = pixels_bn.topk(min(self.top_k, pixels_bn.shape[1]), sorted=False).values.mean(1)
        return masks, scores

    def _average_over_symmetries(self, network: Network, window_btchw: Tensor) -> dict[str, Tensor]:
        """A network's outputs, averaged over the symmetries.

        A network shifts its masks in the same direction however its input is flipped or turned. Seen in the original
        image that direction changes, so the shift is corrected before averaging.
        """
        total: dict[str, Tensor] = {}
        operations, flow_btdhw = symmetry_operations(self.symmetries), network.flow_of(window_btchw)
        for flip, turns in operations:
            moved = None if flow_btdhw is None else turn_flow(flow_btdhw, flip, turns)
            output = network(turn(window_btchw, flip, turns), moved)
            if "probability_bhw" in output:
                back_bhw = turn_back(output["probability_bhw"], flip, turns)
                dy, dx = shift_back(network.mask_shift, flip, turns)
                shift = self.mask_shift[0] - dy, self.mask_shift[1] - dx
                output["probability_bhw"] = to_label_frame(back_bhw[:, None], shift)[:, 0]
            total = {key: total[key] + value if total else value for key, value in output.items()}
        return {key: value / len(operations) for key, value in total.items()} if len(operations) > 1 else total

    def forward(self, window_btchw: Tensor, valid_bhw: Tensor | None = None) -> Prediction:
        """Predict windows of frames.

        Args:
            window_btchw: Windows of stored frames at `offsets`.
            valid_bhw: Where the predicted frame has pixels; None for everywhere.

        Returns:
            The combined prediction, `mask_shift` off the image.
        """
        masks, scores = self.network_outputs(window_btchw, valid_bhw)
        score_b = weighted_mean(scores, self.gate)
        single_b = torch.ones_like(score_b)
        used = [masks[name] for name, weight in self.mask.items() if weight > 0]
        if not used:
            return Prediction(score_b[:, None, None], score_b, single_b)
        probability_bhw = weighted_mean(masks, self.mask)
        if len(used) == 1:
            return Prediction(probability_bhw, score_b, single_b)
        each_mbhw = torch.stack(used)
        lowest_b, highest_b = (part.sum((1, 2)) + 1 for part in (each_mbhw.amin(0), each_mbhw.amax(0)))
        return Prediction(probability_bhw, score_b, lowest_b / highest_b)


def on_label_grid(detect: Detect, shift: Shift) -> Detect:
    """Move a detector's probabilities onto the grid of the labels.

    Args:
        detect: The detector.
        shift: Offset of the label grid from the grid of its masks.

    Returns:
        A detector that answers on the label grid.
    """

    def _moved(window_btchw: Tensor, valid_bhw: Tensor | None = None) -> Prediction:
        prediction = detect(window_btchw, valid_bhw)
        return prediction._replace(probability_bhw=move_masks(prediction.probability_bhw, shift))

    return _moved


def in_orientation(detect: Detect, mask_shift: Shift, *, flip: bool, turns: int) -> Detect:
    """Show a detector flipped and turned images, and turn its masks back.

    Args:
        detect: The detector.
        mask_shift: Offset of its masks from its image, the same however the image is turned.
        flip: Whether to mirror images left to right.
        turns: Number of quarter turns after that.

    Returns:
        A detector whose masks have the same offset from the image as it is.
    """

    def _turned(window_btchw: Tensor, valid_bhw: Tensor | None = None) -> Prediction:
        valid = None if valid_bhw is None else turn(valid_bhw, flip, turns)
        prediction = detect(turn(window_btchw, flip, turns), valid)
        down, right = shift_back(mask_shift, flip, turns)
        back_bhw = turn_back(prediction.probability_bhw, flip, turns)
        return prediction._replace(probability_bhw=move_masks(back_bhw, (mask_shift[0] - down, mask_shift[1] - right)))

    return _turned


def move_masks(probability_bhw: Tensor, shift: Shift) -> Tensor:
    """Resample probabilities onto a shifted grid.

    Args:
        probability_bhw: Probabilities (b, h, w).
        shift: Offset of the new grid.

    Returns:
        Probabilities of the same shape, in [0, 1]; those of a single pixel, as of a classifier, stay as they are.
    """
    return to_label_frame(probability_bhw[:, None], shift)[:, 0].clamp(0, 1)


def weighted_mean(parts: Mapping[str, Tensor], weights: Weights) -> Tensor:
    """Average tensors with weights, which are scaled to sum to 1.

    Args:
        parts: Tensors by name.
        weights: Weights by name; those without a positive weight are left out.

    Returns:
        The mean, of probabilities at most 1; exactly the tensor itself if only one has a weight.
    """
    used = {name: weight for name, weight in weights.items() if weight > 0}
    if len(used) == 1:
        return parts[next(iter(used))]
    total = sum(used.values())
    mean = torch.stack([parts[name] * (weight / total) for name, weight in used.items()]).sum(0)
    return mean.clamp(max=1)  # the weights of 10 equal parts sum to 1 + 1e-7


def single_network_detector(
    model: nn.Module,
    view: View,
    head: str,
    *,
    top_k: int,
    mask_shift: Shift,
    symmetries: Symmetries = Symmetries.NONE,
    scores_masks: bool = False,
) -> Detector:
    """Build the detector of a run from its network.

    Args:
        model: The network.
        view: How it sees stored frames.
        head: `mask`, `record` or `both`; a record head gives the record score.
        top_k: Number of highest pixels whose mean is the record score of a network without such a head.
        mask_shift: Offset of its masks from the image.
        symmetries: Transformed copies of the input to average over.
        scores_masks: Whether the network has a score head, which then gives the record score.

    Returns:
        The detector.
    """
    return Detector(
        {"run": Network(model, view, mask_shift)},
        {} if head == "record" else {"run": 1.0},
        {"run": 1.0},
        top_k=top_k,
        classifiers=["run"] if head != "mask" or scores_masks else [],
        symmetries=symmetries,
    )
