from enum import Enum
from pathlib import Path

from ods.settings.settings import MultiTenantSettings, Settings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()


def test_every_setting_is_on_its_page_with_its_default() -> None:
    for name, field in Settings.model_fields.items():
        default = field.default.value if isinstance(field.default, Enum) else field.default
        if isinstance(default, bool):
            default = str(default).lower()
        shown = "*required*" if field.is_required() else "" if default is None else f"`{default}`"
        assert f"| `ODS_{name.upper()}` | {shown} | {field.description} |" in PAGE


def test_several_tenants_are_on_the_page() -> None:
    assert f"| `ODS_TENANTS` |  | {MultiTenantSettings.model_fields['tenants'].description} |" in PAGE
