"""`python -m cli`, the same as `ods`."""

from cli.main import app

app()
