"""What needs a person, for pages that are open."""

from fastapi import Response

from ods.console.attention import attention_of
from ods.console.live.fragments import FragmentsDep, Shown
from ods.console.page_route import signed_in_router
from ods.console.session import SessionDep

router = signed_in_router()


@router.get("/attention")
async def show_attention(session: SessionDep, fragments: FragmentsDep) -> Response:
    """The strip alone."""

    async def find() -> Shown:
        return {"attention": await attention_of(session.services)}

    return await fragments.shared("_partials/attention.html", find)
