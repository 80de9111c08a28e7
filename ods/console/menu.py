"""The menu: each page that has an entry, in the order that is shown. The names are in `ods.console.texts`."""

MENU = (
    ("menu.instances", "/instances"),
    ("menu.jobs", "/jobs"),
    ("menu.backups", "/backups"),
    ("menu.trash", "/trash"),
    ("menu.templates", "/templates"),
    ("menu.spares", "/spares"),
    ("menu.recovery", "/recovery"),
    ("menu.clients", "/clients"),
    ("menu.audit", "/audit"),
    ("menu.health", "/health"),
)
"""Of each entry, the key of its name, and the page's path below the console."""
