"""Pages of the documentation that are generated when it is built, so that they cannot differ from the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

ROOT = Path(__file__).parents[1]
STARTER = ROOT / "contrail_train/builtin/starter"
"""The model folder whose card is a page."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages.

    Args:
        files: The files of the documentation.
        config: The configuration of mkdocs.

    Returns:
        The files with the generated pages added.
    """
    from contrail_data.cli.main import app as data_app
    from contrail_train.cli.main import app as train_app

    pages = {
        "reference/contrail-data.md": command_page(data_app, "contrail-data"),
        "reference/contrail-train.md": command_page(train_app, "contrail-train"),
        "reference/exit-codes.md": exit_codes_page(),
        "reference/recipe.md": recipe_page(),
        "reference/recipe.schema.json": recipe_schema(),
        "reference/settings.md": settings_page(),
        "reference/presets.md": presets_page(),
        **{f"notebooks/{path.stem}.md": notebook_page(path) for path in sorted((ROOT / "docs/notebooks").glob("*.py"))},
        "starter.md": (STARTER / "README.md").read_text(),
        "benchmarks.md": (ROOT / "benchmarks/README.md").read_text(),
        "contributing.md": linked_from_docs((ROOT / "CONTRIBUTING.md").read_text()),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    files.append(File.generated(config, "records.png", abs_src_path=str(STARTER / "records.png")))
    return files


def linked_from_docs(text: str) -> str:
    """Make links of a page at the top of the repository valid within the documentation."""
    return text.replace("(docs/", "(")


def command_page(app: typer.Typer, name: str) -> str:
    """Describe every command of a command line.

    Args:
        app: The command line.
        name: Its name.

    Returns:
        A page in Markdown.
    """
    command: Any = typer.main.get_command(app)
    for sub in command.commands.values():
        sub.short_help = (sub.help or "").split("\n\n")[0].replace("\n", " ")  # otherwise cut at 45 characters
        for one in (sub, *getattr(sub, "commands", {}).values()):
            if one.epilog:
                title, *examples = one.epilog.split("\n\n")
                one.epilog = "\n".join([f"**{title}**", "", "```console", *(f"$ {text}" for text in examples), "```"])
    return get_docs_for_click(obj=command, ctx=typer.Context(command, info_name=name), name=name, title=name)


def notebook_page(path: Path) -> str:
    """Show a notebook as a page.

    Args:
        path: The notebook, as text that jupytext reads.

    Returns:
        Its cells in Markdown, and where to get it.
    """
    import jupytext

    notebook = jupytext.read(path)
    title, *rest = notebook.cells[0].source.split("\n", 1)
    how = (
        f"*A notebook: [{path.name}]({path.name}). `pip install '.[notebooks]'` in the checkout brings what it needs; "
        f"JupyterLab opens it with a right click, as a notebook, and `jupytext --to ipynb docs/notebooks/{path.name}` "
        "converts it.*"
    )
    cells = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in notebook.cells
    ]
    return "\n\n".join([title, how, *rest, *cells[1:], ""])


def exit_codes_page() -> str:
    """List the exit codes, with the strings below the members of the enumeration as descriptions."""
    import ast

    from contrail_data import errors

    tree = ast.parse(Path(errors.__file__).read_text())
    enumeration = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ExitCode")
    rows, member = [], ""
    for node in enumeration.body[1:]:
        if isinstance(node, ast.Assign):
            member = f"| {ast.literal_eval(node.value)} | "
        elif isinstance(node, ast.Expr):
            rows.append(member + " ".join(ast.literal_eval(node.value).split()) + " |")
    return "\n".join(
        [
            "# Exit codes",
            "",
            "Both command lines end with one of these. A message on stderr, one line, says what, why and what to do.",
            "",
            "| code | meaning |",
            "|---:|---|",
            *rows,
            "",
        ]
    )


def settings_page() -> str:
    """List every setting of a run with its default, what it takes and what it means."""
    from contrail_data.settings.fields import group_of, setting_fields, takes
    from contrail_data.settings.strict import plain
    from contrail_train.config.schema import RunConfig

    lines = [
        "# Settings of a run",
        "",
        "`contrail-train run PRESET --set KEY=VALUE` changes a setting of a preset; a YAML file with these keys can be",
        "given in place of a preset. A setting that has no effect in combination with the others is refused.",
        "`contrail-train presets show PRESET` prints the values of a preset.",
        "",
        "| key | default | takes | meaning |",
        "|---|---|---|---|",
    ]
    for key, field in setting_fields(RunConfig).items():
        if (group := group_of(field)) is not None:
            cells = [f"**`{key}`**", "a group", "", (group.__doc__ or "").strip()]
        else:
            default = plain(field.get_default(call_default_factory=True))
            cells = [f"`{key}`", f"`{default}`", takes(field), field.description or ""]
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def recipe_page() -> str:
    """List every key of a recipe, and of each kind of raw data."""
    from contrail_data.build.recipe import Recipe
    from contrail_data.settings.fields import fields_of, variants_of

    lines = [
        "# Recipe of a store",
        "",
        "`contrail-data build RECIPE` builds a store by a YAML file with these keys; `--set KEY=VALUE` changes one,",
        "such as `sources.0.path`. `contrail-data recipe STORE` prints that of a store. A key that has no effect in",
        "combination with the others is refused. The same as a JSON schema: [recipe.schema.json](recipe.schema.json).",
        "",
        *keys_table(Recipe),
    ]
    for kind, schema in variants_of(fields_of(Recipe)["sources"]).items():
        lines += [
            "",
            f"## Sources of kind {kind}",
            "",
            " ".join((schema.__doc__ or "").split()),
            "",
            *keys_table(schema),
        ]
    return "\n".join([*lines, ""])


def keys_table(schema: Any) -> list[str]:
    """List the keys of one group of settings as the lines of a table."""
    from contrail_data.composites import Composite
    from contrail_data.settings.fields import fields_of, takes, variants_of
    from contrail_data.settings.strict import plain

    lines = ["| key | default | takes | meaning |", "|---|---|---|---|"]
    for key, field in fields_of(schema).items():
        default = field.get_default(call_default_factory=True)
        name = default.name if isinstance(default, Composite) else plain(default)
        shown = "required" if field.is_required() else f"`{name}`"
        kinds = ", ".join(variants_of(field))
        cells = [f"`{key}`", shown, f"a list of groups of kind {kinds}" if kinds else takes(field)]
        cells += [field.description or ""]
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return lines


def recipe_schema() -> str:
    """Return the JSON schema of a recipe."""
    import json

    from contrail_data.build.recipe import Recipe

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
    return json.dumps(schema, indent=1)


def presets_page() -> str:
    """List presets by family, and pipelines, with the notes' verdicts, our measurements, and costs as shipped."""
    from contrail_data.settings.strict import plain
    from contrail_train.config.pipelines import PIPELINES
    from contrail_train.config.presets import FAMILIES, PRESETS, cost_key, get_config, shipped_costs

    costs = shipped_costs()
    lines = [
        "# Presets",
        "",
        "Parameters, and floating-point operations of one forward pass of a sample of 256 x 256 pixels and 3 channels.",
        "The notes are those of a sixth place in the 2023 competition; their verdicts are theirs, in our words. What",
        "we measured stands beside them, with 95 % intervals ([benchmarks](../benchmarks.md)).",
    ]
    for family in FAMILIES.values():
        lines += [
            "",
            f"## {family.name}",
            "",
            family.about,
            "",
            "| preset | based on | what differs | M parameters | GFLOP |",
        ]
        lines += ["|---|---|---|---:|---:|"]
        for preset in PRESETS.values():
            if preset.family == family.name:
                cost = costs[cost_key(get_config(preset.name))]
                changes = ", ".join(f"`{key}={plain(value)}`" for key, value in preset.settings.items())
                about = f"{'<br>'.join(preset.remarks)}<br>{changes}".replace("|", "\\|")
                numbers = f"{cost.parameters / 1e6:.1f} | {cost.flop / 1e9:.1f}"
                lines.append(f"| `{preset.name}` | {preset.parent or ''} | {about} | {numbers} |")
    lines += ["", "## Pipelines", "", "Each encoder family with a classifier has them, such as `resnetrs50_v2`.", ""]
    lines += ["| pipeline | gate | mask | what it is |", "|---|---|---|---|"]
    for name, pipeline in PIPELINES.items():
        if name.startswith("unet2d_"):
            gate, mask = (" + ".join(pipeline.settings.get(key, [])) or "none" for key in ("gate", "mask"))
            lines.append(
                f"| `FAMILY_{name.removeprefix('unet2d_')}` | {gate} | {mask} | {'<br>'.join(pipeline.remarks)} |"
            )
    return "\n".join([*lines, ""])
