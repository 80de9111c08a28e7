"""Reading which rows of a list are wanted, in what order, and which part of them."""

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import Depends, Query

from api.http.parsing import DEFAULT_LIMIT, Limit, Offset
from api.http.problems import ProblemError, pascal
from ods.registry.storage.listing import Listing, Page

_DESCENDING = {"desc", "descending"}


def page_of(listing: Listing, default_limit: int = DEFAULT_LIMIT) -> Any:  # noqa: ANN401 - as FastAPI types its dependencies
    """The dependency that reads the page that is wanted of `listing`."""
    words = {word.lower(): word for word in listing.words}

    async def read(
        offset: Offset = 0,
        limit: Limit = default_limit,
        order_by: Annotated[
            str, Query(alias="orderBy", description=f"One of {', '.join(listing.words)}, in any case.")
        ] = "",
        direction: Annotated[str, Query(description="`desc` or `descending`; else ascending.")] = "",
    ) -> Page:
        order = words.get((order_by or listing.words[0]).lower())
        if order is None:
            raise ProblemError.invalid(
                {"orderBy": [f"'Order By' must be one of {', '.join(listing.words)}."]}
            )
        return Page(order, direction.lower() in _DESCENDING, offset, limit)

    return Depends(read)


def words_of(name: str, words: Collection[str], *, is_filter: bool = True) -> Any:  # noqa: ANN401 - as FastAPI types its dependencies
    """The dependency that reads the `words` under `name`.

    They may be repeated, or separated by commas, and are written in any case.

    Args:
        name: the parameter.
        words: those that it may have.
        is_filter: whether rows pass that have one of the words, and without the parameter all.
    """
    known = {word.lower(): word for word in words}
    listed = ", ".join(words)

    async def read(
        values: Annotated[
            list[str] | None,
            Query(alias=name, description=f"One or several of {listed}, repeated or separated by commas."),
        ] = None,
    ) -> list[str]:
        written = [word.strip().lower() for value in values or [] for word in value.split(",")]
        chosen = {word for word in written if word}
        # A filter that names nothing, as of a variable that is not set, would list all rows: a script that
        # deletes what is listed would delete all.
        if not chosen <= known.keys() or (is_filter and values and not chosen):
            title = pascal(name)
            raise ProblemError.invalid({title: [f"'{title}' must be one or several of {listed}."]})
        return [known[word] for word in sorted(chosen)]

    return Depends(read)
