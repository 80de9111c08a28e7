"""Reading which part of a list is wanted, and in what order."""

from typing import Annotated, Any

from fastapi import Depends, Query

from api.http.parsing import DEFAULT_LIMIT, Limit, Offset
from api.http.problems import ProblemError
from registry.storage.listing import Listing, Page

_DESCENDING = {"desc", "descending"}


def page_of(listing: Listing) -> Any:  # noqa: ANN401 - as FastAPI types its dependencies
    """The dependency that reads the page that is wanted of `listing`."""
    words = {word.lower(): word for word in listing.words}

    async def read(
        offset: Offset = 0,
        limit: Limit = DEFAULT_LIMIT,
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
