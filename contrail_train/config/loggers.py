"""Settings of `loggers`: where a run can be followed while it trains."""

from urllib.parse import urlsplit

from pydantic import Field

from contrail_data.settings.strict import Strict, needs


class WandbConfig(Strict):
    """Weights & Biases; needs the extra `wandb`. Its key comes from `wandb login` or WANDB_API_KEY, never from here."""

    project: str = Field("contrail", min_length=1)
    """Name of the project."""
    entity: str | None = None
    """User or team that owns the project. null: the user's own default."""
    offline: bool = False
    """Write into the run directory only; `wandb sync` uploads it later."""


class MlflowConfig(Strict):
    """An MLflow tracking server; needs the extra `mlflow`."""

    uri: str | None = None
    """Address of the server, such as http://127.0.0.1:5000. null: MLFLOW_TRACKING_URI. A user name and a password come
    from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token from MLFLOW_TRACKING_TOKEN."""
    experiment: str = Field("contrail", min_length=1)
    """Name of the experiment."""

    def _check_combination(self) -> None:
        if self.uri is not None and "@" in urlsplit(self.uri).netloc:
            raise ValueError(
                "loggers.mlflow.uri: holds a user name or password, which a run directory would show to everyone; give "
                "them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )


class LoggersConfig(Strict):
    """Where a run can be followed.

    `metrics.jsonl` in its directory is always written. A run may be resumed with other loggers.
    """

    tensorboard: bool = True
    """Write events for TensorBoard into the run directory."""
    wandb: WandbConfig | None = None
    mlflow: MlflowConfig | None = None
    pictures: int = Field(4, ge=0, le=64)
    """Held-out records of which each epoch shows image, label and prediction."""

    def _check_combination(self) -> None:
        needs(self.is_any or not self.pictures, "a logger", self, "loggers.pictures")

    @property
    def is_any(self) -> bool:
        """Whether there is a logger that shows pictures."""
        return self.tensorboard or self.wandb is not None or self.mlflow is not None
