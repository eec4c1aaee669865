"""Evaluation of a model on a store: scores and error analysis as JSON, and an HTML page with the worst records."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NotRequired

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.reports.page import Picture, Table, render_page
from contrail_data.reports.pictures import SampleViewer
from contrail_data.storage.files import check_folder, write_atomically
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_train.config.model import Head
from contrail_train.contrails.instances import separate_mask
from contrail_train.data.items import Items, open_labelled
from contrail_train.evaluation import analysis_text
from contrail_train.evaluation.analysis import Analysis, analyse
from contrail_train.evaluation.error_pictures import LEGEND, error_pictures
from contrail_train.evaluation.instance_scores import (
    InstanceValues,
    Matched,
    instance_values,
    join,
    match,
    score_table,
)
from contrail_train.evaluation.intervals import NO_INTERVAL
from contrail_train.evaluation.labelled_contrails import labelled_contrails
from contrail_train.evaluation.nearness import nearness_to_training
from contrail_train.evaluation.orientation import (
    OrientationScore,
    orientation_table,
    record_masks,
    score_orientations,
)
from contrail_train.evaluation.outcomes import Outcome, outcome_of, worst
from contrail_train.evaluation.page_charts import (
    Training,
    confidence_chart,
    precision_recall_chart,
    read_training,
    reliability_chart,
    training_charts,
)
from contrail_train.evaluation.score import ScoredRecord, Scores, epoch_scores, score_predictor, score_values, unseen
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.address import folder_for_results
from contrail_train.runs.calibration import ScoreValues


class EvaluationValues(ScoreValues):
    """What `evaluation-*.json` holds."""

    store: dict[str, str]
    """Name and digest of the store that the model was evaluated on."""
    model: str
    head: str
    left_out: int
    """Number of records that the model had seen before."""
    cleaning: dict[str, float]
    """How the masks were cleaned, by step."""
    dice_fitted_here: NotRequired[float]
    """Dice without a gate at thresholds cross-fitted on these records."""
    analysis: NotRequired[Analysis]
    """Missing for models that classify records only."""
    nearness_notes: NotRequired[list[str]]
    """What the analysis does not know about the nearness to training records."""
    instances: NotRequired[InstanceValues]
    """Scores of single contrails; missing for models that classify records only."""
    orientations: NotRequired[list[OrientationScore]]
    """Scores by orientation of the images, if they were asked for."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    values: EvaluationValues
    tables: list[Table]
    """Tables that options ask for, for the screen."""
    details: list[Table]
    """The analysis of errors, for the screen; empty for models that classify records only."""
    files: list[Path]
    """The files that were written."""


def evaluate_store(
    model: Predictor,
    store: xr.Dataset,
    *,
    name: str,
    out: Path | None = None,
    pictures: int = 8,
    batch: int = 16,
    orientations: bool = False,
) -> Evaluation:
    """Evaluate a model on the labelled records of a store that it has not seen, and write JSON and an HTML page.

    Args:
        model: The model. Its own threshold, gate and cleaning are used.
        store: A store of samples.
        name: Name of the store, as it is written to the files.
        out: Folder for the files. `None`: as `runs.address.folder_for_results` says.
        pictures: Number of the worst records to show as pictures.
        batch: Records per step.
        orientations: Score images that are mirrored and turned as well, which takes eight times as long.

    Returns:
        Scores, tables and the written files.

    Raises:
        ContrailError: If the store has no labels, the model has seen all its records, or a file cannot be written.
    """
    folder, prefix = (out, "") if out is not None else folder_for_results(model.path)
    check_folder(folder, in_run=True)
    training = read_training(model.path)
    labelled = open_labelled([store], model.offsets, repeats_edges=model.repeats_edges)
    items = unseen(labelled, [model])
    records = read_scalars(store)
    threshold, gate = model.decision.threshold, model.decision.gate
    masks = model.head != Head.RECORD
    scores, outcomes, matched = score_in_detail(model, store, items, batch)
    values: EvaluationValues = {
        "store": {"name": name, "digest": store.attrs["digest"]},
        "model": model.decision.model,
        "head": model.head,
        "left_out": len(labelled) - len(items),
        "cleaning": model.cleaning.steps if model.cleaning else {},
        **score_values(scores, items, threshold, gate),
    }
    file = folder / f"{prefix}evaluation-{store.attrs['digest'].removeprefix('sha256:')[:12]}.json"
    tables, details, files = [], [], [file]
    if orientations:
        values["orientations"] = score_orientations(model, store, items, batch)
        tables.append(orientation_table(values["orientations"]))
    if masks:
        if (fitted_here := epoch_scores(scores).dice) is not None:
            values["dice_fitted_here"] = fitted_here
        near = nearness_to_training(model, store)
        selected = records.isel(sample=items.sample)
        analysis = analyse(outcomes, selected, scores.record_score, gate, items.group, near.near[items.sample])
        values |= {"analysis": analysis, "nearness_notes": near.notes}
        single = join(matched)
        values["instances"] = instance_values(single, is_fitted=model.confidence is not None)
        details = [score_table(values["instances"]["scores"]), *analysis_text.screen_tables(analysis)]
        viewer = SampleViewer(store, records)
        shown = error_pictures(model, viewer, items, {row: outcomes[row] for row in worst(outcomes, pictures)}, batch)
        html = evaluation_page(values, shown, f"{model.path} on {name}", scores.histogram.sum(0), training)
        files.append(file.with_suffix(".html"))
        write_atomically(files[-1], [html.encode()])
    write_atomically(file, [json.dumps(values, indent=1, allow_nan=False).encode()])
    return Evaluation(values, tables, details, files)


class ScoredInDetail(NamedTuple):
    """Scores of records, and for a model of masks what became of each record and its contrails."""

    scores: Scores
    outcomes: list[Outcome]
    matched: list[Matched]


def score_in_detail(model: Predictor, store: xr.Dataset, items: Items, batch: int = 16) -> ScoredInDetail:
    """Score records of a store, and compare their masks with the labels contrail by contrail.

    Args:
        model: The model. Its own threshold, gate and cleaning are used.
        store: The store of the items.
        items: Labelled records.
        batch: Records per step.

    Returns:
        The scores and comparisons, in the order of the items.
    """
    annotators = read_scalars(store)["annotator_count"].values
    read_votes = pixel_reader(store, "annotators") if "annotators" in store.variables else None
    outcomes: dict[int, Outcome] = {}
    matched: dict[int, Matched] = {}

    def record_outcome(record: ScoredRecord) -> None:
        sample = int(items.sample[record.row])
        votes_yx = None
        if read_votes is not None and annotators[sample]:
            votes_yx = np.empty(record.target.shape, store["annotators"].dtype)
            read_votes(sample, [0], votes_yx[np.newaxis])
        gated_yx = record.predicted & (record.score >= model.decision.gate)
        outcomes[record.row] = outcome_of(gated_yx, record.predicted, record.target, votes_yx, int(annotators[sample]))
        contrails = separate_mask(gated_yx, record.probability, confidence=model.confidence)
        matched[record.row] = match(contrails, labelled_contrails(store, sample, record.target))

    on_record = None if model.head == Head.RECORD else record_outcome
    scores = score_predictor(model, items, batch, on_record, record_masks(model, store, items))
    return ScoredInDetail(
        scores, [outcomes[row] for row in sorted(outcomes)], [matched[row] for row in sorted(matched)]
    )


def evaluation_page(
    values: EvaluationValues,
    pictures: Sequence[Picture],
    title: str,
    histogram: npt.NDArray[np.int64],
    training: Sequence[Training] = (),
) -> str:
    """Render the page of an evaluation.

    Args:
        values: Scores and analysis.
        pictures: The worst records.
        title: Title of the page.
        histogram: Pixels without and with a label by probability before any gate, (2, bin).
        training: How the run, or each run of the pipeline, was trained; empty if no epochs were logged.

    Returns:
        The HTML text.
    """
    return render_page(
        "evaluation.html",
        package=__package__,
        title=title,
        values=values,
        text=analysis_text,
        orientations=orientation_table(values["orientations"]) if "orientations" in values else None,
        fitted_confidence="instances" in values and values["instances"]["is_fitted"],
        contrails=score_table(values["instances"]["scores"]) if "instances" in values else None,
        confidence=confidence_chart(values["instances"]) if "instances" in values else None,
        pictures=pictures,
        legend=LEGEND,
        no_interval=NO_INTERVAL,
        reliability=reliability_chart(histogram) if histogram[1].any() else None,
        precision_recall=precision_recall_chart(histogram, values["threshold"]) if histogram[1].any() else None,
        contrail_share=histogram[1].sum() / max(histogram.sum(), 1),
        training=[(one, training_charts(one)) for one in training],
    )
