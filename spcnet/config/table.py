"""The page of all options, from what stands in their fields: `python -m spcnet.config.table > docs/options.md`."""

import json
import sys
from typing import Any

import docstring_parser

from spcnet.config.fields import RunConfig
from spcnet.config.options import Option, Rule, parts_of, type_name, walk
from spcnet.config.recipes import as_dict

HEAD = """# Options

Every option of a run, as it stands in a recipe and, as `--model.backbone resnet50`, on the command line. What an option
decides says who may change it: **result**, the figures, so that runs that differ in it are two experiments; **schedule**,
also what step and image comes when, so that a resumed run keeps it; **order**, the random numbers alone; **place**, where
and how a run is computed, saved and shown.
"""


def options_page() -> str:
    """Markdown with a table for each group of options: name, default, what is allowed, what it decides, what it means."""
    lines, groups = [HEAD.strip()], dict[type[Any], list[Option]]()
    for owner, option in walk(RunConfig, ""):
        groups.setdefault(owner, []).append(option)
    for owner, options in groups.items():
        described = docstring_parser.parse_from_object(owner)
        meanings = {param.arg_name: _line(param.description) for param in described.params}
        lines += ["", f"## {options[0].path.rpartition('.')[0] or 'The run'}", "", _line(described.description), ""]
        lines += ["| option | default | allowed | decides | meaning |", "|---|---|---|---|---|"]
        for path, hint, rule in options:
            name = path.rpartition(".")[2]
            default = json.dumps(as_dict(getattr(owner(), name)), ensure_ascii=False)
            lines.append(f"| `{name}` | `{default}` | {_allowed(hint, rule)} | {rule.decides} | {meanings[name]} |")
    return "\n".join(lines) + "\n"


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _allowed(hint: Any, rule: Rule) -> str:
    if rule.choices:
        return ", ".join(f"`{choice}`" for choice in rule.choices)
    kind = " or ".join(map(type_name, parts_of(hint)))
    return kind if rule.least is None and rule.above is None else f"{kind}; must {rule.words}"


if __name__ == "__main__":
    sys.stdout.write(options_page())
