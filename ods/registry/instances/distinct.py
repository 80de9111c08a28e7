"""What of several new instances only one can have: name, name of the database, all contexts together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ods.registry.instances.naming import database_name


@dataclass(frozen=True)
class DistinctPart:
    """One of these parts.

    Attributes:
        key: equal for two instances that cannot both have it.
        member: the property of a request that has it, in PascalCase.
        words: how a message names it.
    """

    key: tuple[str, ...]
    member: str
    words: str


def doubled_parts(
    instances: Mapping[int, tuple[str, str | None, Mapping[str, str]]],
) -> Iterator[tuple[int, int, DistinctPart]]:
    """The parts that an earlier one of `instances` has as well: the later one, the earlier one, the part.

    Args:
        instances: name, template and contexts of each, by their numbers, in order. Without the template, the
            name of the database is not known, and not compared.
    """
    first: dict[tuple[str, ...], int] = {}
    for number, (name, template, contexts) in instances.items():
        is_doubled = ("name", name) in first
        for part in _parts(name, template, contexts):
            earlier = first.setdefault(part.key, number)
            # Two with one name have one name for their databases as well, which need not be told.
            if earlier != number and not (is_doubled and part.key[0] == "database"):
                yield number, earlier, part


def _parts(name: str, template: str | None, contexts: Mapping[str, str]) -> Iterator[DistinctPart]:
    yield DistinctPart(("name", name), "Name", f"The name '{name}'")
    if template is not None:
        database = database_name(name, template)
        yield DistinctPart(("database", database), "Name", f"The name of the database, '{database}',")
    if contexts:
        pairs = sorted(f"{key}={value}".casefold() for key, value in contexts.items())
        words = ", ".join(f"'{key}' = '{value}'" for key, value in contexts.items())
        yield DistinctPart(("contexts", *pairs), "Contexts", f"The set of contexts {words}")
