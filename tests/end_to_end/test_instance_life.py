import asyncpg
from temporalio.client import Client

from cli.postgres import EmbeddedPostgres
from instances.catalog import Catalog
from instances.registry import Registry
from instances.status import Template
from workflows.start import JobStarter


async def test_instance_is_created_and_deleted_when_requested(
    registry: Registry, catalog: Catalog, starter: JobStarter, temporal: Client, workers: None,
    postgres: EmbeddedPostgres, name: str,
) -> None:
    import time
    for i in range(3):
        t=time.perf_counter()
        created = await registry.reserve(name+f" {i}", Template.MINIMAL)
        t1=time.perf_counter()
        await starter.start(created.job)
        t2=time.perf_counter()
        print(await temporal.get_workflow_handle(created.job.workflow_id).result(), t1-t, t2-t1, time.perf_counter()-t)
        instance = await catalog.instance(created.instance.id)
        assert instance.status == "Completed", instance.errormessage
    connection = await asyncpg.connect(postgres.dsn(created.job.database))
    assert await connection.fetchval("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'edfi'")
    await connection.close()
    deleted = await registry.request_delete(created.instance.id)
    await starter.start(deleted.job)
    print(await temporal.get_workflow_handle(created.job.workflow_id).result())
    print(await catalog.job(deleted.job.job_id))
    t=time.perf_counter()
    c=await asyncpg.connect(postgres.dsn())
    t=time.perf_counter()
    await c.execute('create database xx template "EdFi_Ods_Minimal_Template"')
    print("bare", time.perf_counter()-t)
    await c.close()
