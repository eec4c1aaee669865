"""Contrail detectors, trained straight from the stores of contrail_data.

From the bottom to the top: `config` says what a run is; `data` reads samples and augments them, `models` are the
networks, `runs` is what a run leaves on disk, and `contrails` turns masks into single contrails. `inference` loads a
run as a predictor, which `evaluation` scores and `scenes` applies to whole scans. `training` runs the loop, `workflows`
combine several runs, and `cli` is the command line. A room imports only rooms below it. The names below are what
notebooks and scripts need; they are imported at their first use.
"""

from typing import TYPE_CHECKING

from contrail_data.lazy import lazy_names

if TYPE_CHECKING:
    from contrail_train.data.dataset import ContrailDataset
    from contrail_train.workflows.predict import predict
    from contrail_train.workflows.symmetries import load_predictor
    from contrail_train.workflows.train import train

__all__ = ["ContrailDataset", "load_predictor", "predict", "train"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ContrailDataset": "contrail_train.data.dataset:ContrailDataset",
        "load_predictor": "contrail_train.workflows.symmetries:load_predictor",
        "predict": "contrail_train.workflows.predict:predict",
        "train": "contrail_train.workflows.train:train",
    },
)
