"""What the stages of a pipeline name, checked before the work; without torch or xarray."""

from contrail_data.catalog.stores import check_store
from contrail_data.errors import ContrailError
from contrail_train.config.pipelines import PipelineConfig, stage_config
from contrail_train.runs.address import check_address, local_path
from contrail_train.runs.finished import check_run
from contrail_train.training.inputs import check_inputs


def check_stages(config: PipelineConfig) -> None:
    """Refuse settings of a pipeline whose stages name what is not there, or what does not fit together.

    Args:
        config: The settings.

    Raises:
        ContrailError: If they do; the message names the stage.
    """
    for name, stage in config.stages.items():
        if stage.run is not None:
            if (path := local_path(check_address(stage.run))) is not None:
                check_run(path)
            continue
        try:
            check_inputs(stage_config(config, name))
        except ContrailError as error:
            raise ContrailError(f"stage {name}: {error}") from None
    for store in config.calibrate_on:
        check_store(store)
