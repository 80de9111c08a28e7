"""A job, for tests to which it does not matter whose it is."""

from ods.model.arguments import MakeArguments
from ods.model.operations import Operation, Template
from ods.model.origins import FROM_TEMPLATE
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob

JOB = InstanceJob(
    tenant="default",
    operation=Operation.CREATE,
    arguments=MakeArguments(FROM_TEMPLATE),
    instance_id=7,
    ods_instance_id=42,
    number=3,
    attempt=2,
    name="Foo",
    template=Template.MINIMAL,
    database="EdFi_Ods_Foo_Minimal",
    database_id="51f8a7c2-0000-4000-8000-00000000000d",
    mark="6b1f0f6e-0000-4000-8000-000000000000",
    request="51f8a7c2-0000-4000-8000-000000000000",
    published=False,
    policy=ExecutionPolicy("ods-ddl", 8, 5, 86_400, 3600, "ods-backup"),
    installation="6b1f0f6e-0000-4000-8000-00000000000a",
)
