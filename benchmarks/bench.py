"""The argument of every section: whether the run is a quick one, and the stacks to measure."""

from dataclasses import dataclass
from typing import TypeVar

from benchmarks.stacks import Stacks
from benchmarks.templates import TemplateSpec

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark; a quick one shows that it works, and its figures mean nothing."""

    quick: bool
    stacks: Stacks

    def pick(self, full: _Value, *, quick: _Value) -> _Value:
        """The value for this run: `full` in a full one, `quick` in a quick one."""
        return quick if self.quick else full

    @property
    def small(self) -> TemplateSpec:
        """The smallest template: the service's share of the time is largest."""
        return TemplateSpec(10)

    @property
    def many_tables(self) -> TemplateSpec:
        """A template like a real one without data: many small files."""
        return TemplateSpec(30, self.pick(800, quick=100))

    @property
    def medium(self) -> TemplateSpec:
        """A template with data."""
        return TemplateSpec(self.pick(400, quick=40))

    @property
    def large(self) -> TemplateSpec:
        """A template whose copy takes seconds."""
        return TemplateSpec(self.pick(800, quick=80))
