"""Names of encoders, looked up without torch or timm, which take seconds to import."""

import difflib
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_train.config.model import VIDEO_PREFIX


def check_name(name: str) -> None:
    """Refuse the name of an encoder that does not occur in timm's source.

    timm registers a model by the name of a function, and an old name by a string. Whether it knows a name that occurs,
    and its tag, is decided when the encoder is built.

    Args:
        name: Name of a timm model, with or without a tag, or of a video model.

    Raises:
        ContrailError: If timm cannot know the model.
    """
    timm = find_spec("timm")
    if name.startswith(VIDEO_PREFIX) or timm is None or timm.origin is None:
        return
    source = "".join(path.read_text("utf-8") for path in sorted(Path(timm.origin).parent.glob("models/*.py")))
    architecture = name.partition(".")[0]
    if not any(form in source for form in (f"def {architecture}(", f"'{architecture}'", f'"{architecture}"')):
        raise ContrailError(why_unknown(name, re.findall(r"^def (\w+)\(pretrained", source, re.MULTILINE)))


def why_unknown(name: str, known: Iterable[str]) -> str:
    """Explain that timm does not know a model.

    Args:
        name: What was named.
        known: Names of models that timm knows.

    Returns:
        The message of the error, with similar names.
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "https://huggingface.co/timm lists them"
    return f"model.encoder={name}: not a timm model; {hint}"
