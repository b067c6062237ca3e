"""The fleet with a provisioned cluster that docs/fleet-file.md shows."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet

ARTICLE = PROJECT_ROOT / "fleets" / "article"
PAGE = PROJECT_ROOT / "docs" / "fleet-file.md"


def documented() -> dict[str, Any]:
    """The example of the page, over the article's fleet."""
    match = re.search(r"## A provisioned cluster\n\n```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match
    article = yaml.safe_load((ARTICLE / "production.yaml").read_text())
    return _over(article, yaml.safe_load(match[1]))


def load_documented(folder: Path, *changes: tuple[str, str]) -> Fleet:
    """That fleet, with text replaced in it before it is read."""
    shutil.copytree(ARTICLE / "calendars", folder / "calendars", dirs_exist_ok=True)
    text = yaml.safe_dump(documented(), sort_keys=False)
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    file = folder / "production.yaml"
    file.write_text(text)
    return load_fleet(file)


def _over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings, deep; what is in both is taken from the top one."""
    both = {
        key: _over(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in top.items()
    }
    return {**base, **both}
