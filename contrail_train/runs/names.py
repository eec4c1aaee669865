"""Names of the files in a run directory and in that of a pipeline; see `directory` for what they hold."""

from contrail_data.model_folders.manifest import WEIGHTS as WEIGHTS

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CALIBRATION = "calibration.json"
FLOW_WEIGHTS = "raft.safetensors"
CHECKPOINTS = "checkpoints"
"""The folder of checkpoints."""
LOCK = "lock"
PIPELINE = "pipeline.yaml"
STAGES = "stages"
"""A pipeline's folder of run directories."""
