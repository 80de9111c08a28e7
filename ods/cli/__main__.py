"""`python -m ods.cli`, the same as `ods`."""

from ods.cli.main import app

app()
