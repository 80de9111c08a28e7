"""What needs a person, for pages that are open."""

from fastapi import Request, Response

from console.attention import attention_of
from console.live.fragments import FragmentsDep
from console.page import render
from console.page_route import signed_in_router
from console.session import SessionDep

router = signed_in_router()


@router.get("/attention")
async def show_attention(request: Request, session: SessionDep, fragments: FragmentsDep) -> Response:
    """The strip alone."""

    async def make() -> Response:
        request.state.attention = await attention_of(session.services)
        return render(request, "_partials/attention.html")

    return await fragments.shared(make)
