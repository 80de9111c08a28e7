"""The page of one instance, also of a deleted one; parts of it for pages that are open."""

from fastapi import Request, Response

from ods.console.live.fragments import FragmentsDep, Shown
from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.instance import InstanceId, InstanceViewDep

router = signed_in_router()


@router.get("/instances/{instance_id}")
async def show_instance(request: Request, instance_id: InstanceId, view: InstanceViewDep) -> Response:
    """The page."""
    page = await view.page(instance_id)
    return render(request, "instance.html", page=page, head=page.head, jobs=page.jobs)


@router.get("/instances/{instance_id}/head")
async def show_head(instance_id: InstanceId, view: InstanceViewDep, fragments: FragmentsDep) -> Response:
    """Its beginning: name, status, what is under way."""

    async def find() -> Shown:
        return {"head": await view.head(instance_id)}

    return await fragments.shared("_partials/instance_head.html", find)


@router.get("/instances/{instance_id}/about")
async def show_about(instance_id: InstanceId, view: InstanceViewDep, fragments: FragmentsDep) -> Response:
    """What it is."""

    async def find() -> Shown:
        row = await view.row(instance_id)
        return {"row": row, "source": await view.source(row)}

    return await fragments.shared("_partials/instance_about.html", find)


@router.get("/instances/{instance_id}/contexts")
async def show_contexts(instance_id: InstanceId, view: InstanceViewDep, fragments: FragmentsDep) -> Response:
    """By what the ODS/API chooses it."""

    async def find() -> Shown:
        return {"contexts": await view.contexts(instance_id)}

    return await fragments.shared("_partials/instance_contexts.html", find)


@router.get("/instances/{instance_id}/usage")
async def show_usage(instance_id: InstanceId, view: InstanceViewDep, fragments: FragmentsDep) -> Response:
    """How its database is used."""

    async def find() -> Shown:
        usage = await view.usage(await view.row(instance_id))
        return {"instance_id": instance_id, "usage": usage}

    return await fragments.shared("_partials/instance_usage.html", find)


@router.get("/instances/{instance_id}/jobs")
async def show_jobs(instance_id: InstanceId, view: InstanceViewDep, fragments: FragmentsDep) -> Response:
    """Its newest jobs."""

    async def find() -> Shown:
        jobs = await view.jobs(instance_id)
        return {"instance_id": instance_id, "jobs": jobs}

    return await fragments.shared("_partials/instance_jobs.html", find)


@router.get("/instances/{instance_id}/copies")
async def show_copies(instance_id: InstanceId, view: InstanceViewDep, fragments: FragmentsDep) -> Response:
    """Its backups, snapshots, and the databases that it had before resets."""

    async def find() -> Shown:
        return {"copies": await view.copies(instance_id)}

    return await fragments.shared("_partials/instance_copies.html", find)


@router.get("/instances/{instance_id}/organizations")
async def show_organizations(
    instance_id: InstanceId, view: InstanceViewDep, fragments: FragmentsDep
) -> Response:
    """Its education organizations."""

    async def find() -> Shown:
        organizations = await view.organizations(instance_id)
        return {"organizations": organizations}

    return await fragments.shared("_partials/instance_organizations.html", find)
