"""The console: composes its pages. The API serves them below `/console`, unless `ODS_CONSOLE` is false."""

from fastapi import APIRouter

from console.routes import (
    abandon_job,
    adopt_database,
    attention,
    audit,
    backup,
    backups,
    cancel_job,
    client_state,
    clients,
    copy_instance,
    delete_backup,
    delete_instances,
    delete_snapshot,
    drift,
    edit_instance,
    health,
    home,
    instance,
    instances,
    job,
    jobs,
    live,
    new_client,
    new_instance,
    purge_instance,
    rename_instance,
    reset_instance,
    retry_instance,
    rotate_client,
    sign_in,
    sign_in_link,
    spares,
    static,
    templates,
    theme,
    trash,
    undelete_instance,
    unknown,
    verify_backup,
)

router = APIRouter(include_in_schema=False)
for _module in (
    *(home, sign_in, sign_in_link, theme, static, live),
    # `new` and `delete` come before the ids of instances.
    *(instances, new_instance, delete_instances, edit_instance),
    *(rename_instance, retry_instance, adopt_database, instance),
    *(jobs, cancel_job, abandon_job, job, trash, undelete_instance),
    *(clients, new_client, client_state, rotate_client, audit),
    *(backups, delete_backup, verify_backup, backup),
    *(rename_instance, retry_instance, reset_instance, copy_instance, delete_snapshot, instance),
    *(jobs, cancel_job, abandon_job, job, trash, undelete_instance, purge_instance),
    *(backups, delete_backup, verify_backup, backup, templates),
    *(spares, drift, health, attention),
    unknown,
):
    router.include_router(_module.router)
