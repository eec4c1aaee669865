"""Networks as one detector: frames as stored in, probability, record score and agreement out.

A run has one network, a pipeline or an ensemble several: their masks are averaged with weights, and so are the scores
by which a gate opens. Everything is in one `nn.Module`, which is why an exported file does what a run directory does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from contrail_data.labels.predictor import Symmetries
from contrail_train.config.schema import RunConfig
from contrail_train.data.augment import resample, to_label_frame

Shift = tuple[float, float]
"""(down, right) in pixels."""


@dataclass(frozen=True)
class View:
    """How stored frames become what a network sees."""

    offsets: tuple[int, ...]
    """Frames, from the one that is predicted."""
    mean_c: Tensor
    std_c: Tensor
    """Of values in [0, 1] over the train split; a channel that never varies is left unscaled."""
    each_image: bool
    """Normalise by each sample's own mean and deviation instead."""
    size: tuple[int, int] | None
    """Height and width the network works at; None: as stored."""


def view_of(config: RunConfig, statistics: Mapping[str, Any], device: torch.device) -> View:
    mean = torch.tensor(statistics["mean"], dtype=torch.float32, device=device)
    std = torch.tensor(statistics["std"], dtype=torch.float32, device=device)
    side = config.model.image_size
    return View(
        tuple(config.data.frames),
        mean,
        torch.where(std > 1e-6, std, torch.ones_like(std)),
        config.data.normalise == "image",
        None if side is None else (side, side),
    )


def normalise(image_btchw: Tensor, view: View) -> Tensor:
    """Stored values, uint8 counting 1/255, to float32 of zero mean and unit deviation."""
    scale = 1 / 255 if image_btchw.dtype == torch.uint8 else 1.0
    x_btchw = image_btchw.float() * scale
    if view.each_image:
        std_b1c11, mean_b1c11 = torch.std_mean(x_btchw, (1, 3, 4), correction=0, keepdim=True)
        return (x_btchw - mean_b1c11) / std_b1c11.clamp_min(1e-3)  # a flat channel is left flat
    return (x_btchw - view.mean_c[:, None, None]) / view.std_c[:, None, None]


class Network(nn.Module):
    """A trained network as it looks at stored frames; its answers are probabilities."""

    def __init__(self, model: nn.Module, view: View, off: Shift = (0.0, 0.0)):
        super().__init__()
        self.model = model
        self.offsets, self.each_image, self.size = view.offsets, view.each_image, view.size
        self.register_buffer("mean_c", view.mean_c)
        self.register_buffer("std_c", view.std_c)
        self.off = off
        """How far its masks lie off the image: (0, 0) where it was trained with the label shift corrected."""

    @property
    def view(self) -> View:
        return View(self.offsets, self.mean_c, self.std_c, self.each_image, self.size)  # type: ignore[arg-type]

    def forward(self, window_btchw: Tensor) -> dict[str, Tensor]:
        """Its frames as stored → by head, `probability_bhw` at the stored size and `record_b`."""
        x_btchw = normalise(window_btchw, self.view)
        if self.size is not None:
            x_btchw = resample(x_btchw, self.size)
        answer = self.model(x_btchw, window_btchw.shape[-2:])
        made = {}
        if "logits_b1hw" in answer:
            made["probability_bhw"] = torch.sigmoid(answer["logits_b1hw"].float())[:, 0]
        if "record_logit_b1" in answer:
            made["record_b"] = torch.sigmoid(answer["record_logit_b1"].float())[:, 0]
        return made


class Prediction(NamedTuple):
    """Of the frame that is looked at."""

    probability_bhw: Tensor
    """float32; of classifiers alone (b, 1, 1): a record is a mask of one pixel."""
    score_b: Tensor
    """float32, what the gate compares."""
    agreement_b: Tensor
    """float32, of the networks' masks: sum of their least over sum of their highest probabilities, each sum 1 pixel
    more, so that frames without anything agree; 1 for a single network."""


Detect = Callable[[Tensor, Tensor | None], Prediction]
"""Windows of stored frames (b, t, c, h, w), uint8 or float; bool (b, h, w), where the frame that is looked at has
pixels, None for everywhere → what is told of each. No score counts what is told where there is no pixel."""


class Detector(nn.Module):
    """Networks, the weights of their masks and of what they tell of a record, and how they are asked.

    mask, gate: weight by the network's name. Of a network that is named in `classifiers` the gate takes its
    probability of a record, of others the mean of the `top_k` highest pixels. Answers lie `off`
    off the image: (0, 0) unless all networks are off alike, which one resampling onto the labels' grid mends.
    """

    def __init__(
        self,
        networks: Mapping[str, Network],
        mask: Mapping[str, float],
        gate: Mapping[str, float],
        *,
        top_k: int,
        classifiers: Sequence[str] = (),
        symmetries: Symmetries = "none",
    ):
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.mask, self.gate, self.classifiers = dict(mask), dict(gate), tuple(classifiers)
        self.top_k, self.symmetries = top_k, symmetries
        self.offsets = tuple(sorted({offset for network in networks.values() for offset in network.offsets}))
        offs = {network.off for network in networks.values()}
        self.off: Shift = offs.pop() if len(offs) == 1 and symmetries == "none" else (0.0, 0.0)

    def parts(
        self, window_btchw: Tensor, valid_bhw: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(masks (b, h, w), scores (b)) by network; arguments as in `Detect`."""
        masks, scores = {}, {}
        for name, network in self.networks.items():
            at = [self.offsets.index(offset) for offset in network.offsets]  # type: ignore[union-attr]
            told = self._asked(network, window_btchw[:, at])  # type: ignore[arg-type]
            if "probability_bhw" in told:
                masks[name] = told["probability_bhw"].clamp(0, 1)
            if name in self.classifiers:
                scores[name] = told["record_b"]
            else:
                there_bhw = masks[name] if valid_bhw is None else torch.where(valid_bhw, masks[name], 0.0)
                pixels_bn = there_bhw.flatten(1)
                scores[name] = pixels_bn.topk(min(self.top_k, pixels_bn.shape[1]), sorted=False).values.mean(1)
        return masks, scores

    def _asked(self, network: Network, window_btchw: Tensor) -> dict[str, Tensor]:
        """A network's answers, averaged over the symmetries.

        A network whose masks lie off the image does so whatever way up it is shown one: in the image itself what it
        is off by is turned, and must be made good before the average.
        """
        total: dict[str, Tensor] = {}
        ways = list(ways_of(self.symmetries))
        for flip, turns in ways:
            told = network(_turned(window_btchw, flip, turns))
            if "probability_bhw" in told:
                back_bhw = _turned_back(told["probability_bhw"], flip, turns)
                dy, dx = _vector_back(network.off, flip, turns)
                shift = self.off[0] - dy, self.off[1] - dx
                told["probability_bhw"] = to_label_frame(back_bhw[:, None], shift)[:, 0]
            total = {key: total[key] + value if total else value for key, value in told.items()}
        return {key: value / len(ways) for key, value in total.items()} if len(ways) > 1 else total

    def forward(self, window_btchw: Tensor, valid_bhw: Tensor | None = None) -> Prediction:
        masks, scores = self.parts(window_btchw, valid_bhw)
        return self.joined(masks, scores)

    def joined(self, masks: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> Prediction:
        """What `parts` make together."""
        score_b = weighted(scores, self.gate)
        used = [masks[name] for name, weight in self.mask.items() if weight > 0]
        if not used:
            return Prediction(score_b[:, None, None], score_b, torch.ones_like(score_b))
        probability_bhw = weighted(masks, self.mask)
        if len(used) == 1:
            return Prediction(probability_bhw, score_b, torch.ones_like(score_b))
        each_mbhw = torch.stack(used)
        least_b, most_b = (part.sum((1, 2)) + 1 for part in (each_mbhw.amin(0), each_mbhw.amax(0)))
        return Prediction(probability_bhw, score_b, least_b / most_b)


def onto_labels(detect: Detect, shift: Shift) -> Detect:
    """The same with its probabilities moved by `shift`: how far the labels' grid lies off what `detect` answers on."""

    def moved(window_btchw: Tensor, valid_bhw: Tensor | None = None) -> Prediction:
        told = detect(window_btchw, valid_bhw)
        if told.probability_bhw.shape[1:] == (1, 1):
            return told
        mask_bhw = to_label_frame(told.probability_bhw[:, None], shift)[:, 0].clamp(0, 1)
        return told._replace(probability_bhw=mask_bhw)

    return moved


def weighted(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Mean by weights, which are scaled to sum to 1; a single part is left to the bit."""
    used = {name: weight for name, weight in weights.items() if weight > 0}
    if len(used) == 1:
        return parts[next(iter(used))]
    total = sum(used.values())
    return torch.stack([parts[name] * (weight / total) for name, weight in used.items()]).sum(0)


def single(model: nn.Module, view: View, head: str, *, top_k: int, off: Shift, symmetries: Symmetries) -> Detector:
    """The detector that a run is: one network, whose record head, where it has one, the gate asks."""
    return Detector(
        {"run": Network(model, view, off)},
        {} if head == "record" else {"run": 1.0},
        {"run": 1.0},
        top_k=top_k,
        classifiers=["run"] if head != "mask" else [],
        symmetries=symmetries,
    )


def ways_of(symmetries: Symmetries) -> Iterator[tuple[bool, int]]:
    """(mirrored left to right first, quarter turns after)."""
    turns = {"none": [0], "flips": [0, 2], "dihedral": [0, 1, 2, 3]}[symmetries]
    for flip in (False, True) if symmetries != "none" else (False,):
        yield from ((flip, turn) for turn in turns)


def _turned(x: Tensor, flip: bool, turns: int) -> Tensor:
    return torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1)) if flip or turns else x


def _turned_back(x: Tensor, flip: bool, turns: int) -> Tensor:
    if not (flip or turns):
        return x
    back = torch.rot90(x, -turns, (-2, -1))
    return back.flip(-1) if flip else back


def _vector_back(shift: Shift, flip: bool, turns: int) -> Shift:
    """A shift seen in a turned image, as it is in the image itself."""
    dy, dx = shift
    for _ in range(turns % 4):
        dy, dx = dx, -dy
    return (dy, -dx) if flip else (dy, dx)


Weights = Mapping[str, float]
