"""The console: composes its pages. The API serves them below `/console`, unless `ODS_CONSOLE` is false."""

from fastapi import APIRouter

from console.routes import (
    adopt_database,
    attention,
    audit,
    backup,
    backups,
    client_downloads,
    client_state,
    clients,
    copy_instance,
    delete_backup,
    delete_instances,
    delete_snapshot,
    drift,
    edit_instance,
    end_job,
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
    sign_in_issuer,
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
    *(home, sign_in, sign_in_issuer, sign_in_link, theme, static, live),
    # `new` and `delete` come before the ids of instances.
    *(instances, new_instance, delete_instances, edit_instance),
    *(
        rename_instance,
        retry_instance,
        reset_instance,
        copy_instance,
        delete_snapshot,
        adopt_database,
        instance,
    ),
    *(jobs, end_job, job, trash, undelete_instance, purge_instance),
    *(backups, delete_backup, verify_backup, backup, templates),
    *(clients, new_client, client_state, client_downloads, rotate_client, audit),
    *(spares, drift, health, attention),
    unknown,
):
    router.include_router(_module.router)
