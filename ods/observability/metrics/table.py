"""`python -m ods.observability.metrics.table`: the table of all metrics in `docs/operations/metrics.md`."""

import sys

from ods.observability.metrics.catalog import DEFINITIONS


def table() -> str:
    """The metrics in Markdown, a row each."""
    rows = [
        (f"`{it.name}`", it.kind, ", ".join(f"`{label}`" for label in it.labels), it.source, it.help)
        for it in DEFINITIONS
    ]
    head = [("metric", "kind", "labels", "told by", "what it tells"), ("---",) * 5]
    return "".join(f"| {' | '.join(row)} |\n" for row in (*head, *rows))


if __name__ == "__main__":
    sys.stdout.write(table())
