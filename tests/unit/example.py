"""A job, for tests to which it does not matter whose it is."""

from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.registry.instances.status import Operation, Template

JOB = InstanceJob(
    tenant="default",
    operation=Operation.CREATE,
    instance_id=7,
    ods_instance_id=42,
    number=3,
    attempt=2,
    name="Foo",
    template=Template.MINIMAL,
    database="EdFi_Ods_Foo_Minimal",
    mark="6b1f0f6e-0000-4000-8000-000000000000",
    request="51f8a7c2-0000-4000-8000-000000000000",
    published=False,
    policy=ExecutionPolicy("ods-ddl", 8, 5, 86_400),
)
