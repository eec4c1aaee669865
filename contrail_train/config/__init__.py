"""Settings of a run: the schema, the presets and the pipelines. Nothing here imports torch.

- `schema`: every setting with its type, default, limits and description; refuses settings that have no effect. Its
  groups are in `data`, `augment`, `model`, `training` and `loggers`, on the base of `contrail_data.settings.strict`.
- `settings`: settings from YAML files and `--set key=value`, and back to YAML, by means of `contrail_data.settings`.
- `presets`: named runs, read from `presets.yaml`, with their sizes and costs from `preset_costs.json`.
- `pipelines`: the schema of a pipeline, and the named pipelines in `pipelines.yaml`; `sweep`: that of a sweep.

Data passes one way: a name or a file becomes a `RunConfig` or a `PipelineConfig`, which every other room reads.
"""
