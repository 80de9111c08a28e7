"""What tenants' registries and servers are asked for a scrape of metrics, and connection pools."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from sqlalchemy.pool import QueuePool

from ods.databases.inspection import listing
from ods.observability.metrics.catalog import (
    DATABASE_BYTES,
    POOL_CONNECTIONS,
    POOL_LIMIT,
    SPARES_READY,
    SPARES_WANTED,
    TRASH_BYTES,
)
from ods.observability.metrics.figures import Question, Sample
from ods.registry.figures import RegistryFigures
from ods.tenants.tenant import Tenant

_SIZES_SECONDS = 60
"""How long a server may take to say how large all databases are: it looks at each of their files."""


def questions(tenants: Iterable[Tenant]) -> Iterator[Question]:
    """What is asked of registries and servers for the API's metrics; of a server that tenants share, once."""
    sharing: dict[str, list[Tenant]] = {}
    for tenant in tenants:
        sharing.setdefault(tenant.settings.master_dsn.get_secret_value(), []).append(tenant)
        yield Question("registry", RegistryFigures(tenant.engine, tenant.name, tenant.settings).read)
        if tenant.settings.spares:
            yield Question("server", partial(_spares, tenant))
    for group in sharing.values():
        yield Question("server", partial(_sizes, group), _SIZES_SECONDS)


def pool_samples(tenants: Iterable[Tenant]) -> Iterator[Sample]:
    """How many connections of this process are in use, of each pool."""
    for tenant in tenants:
        uses = {
            "registry": _use_of(tenant.engine.pool),
            "refresh": _use_of(tenant.reading_engine.pool),
            "server": tenant.server.pool_use,
        }
        for pool, (in_use, idle, limit) in uses.items():
            yield Sample(POOL_CONNECTIONS, (pool, "in_use", tenant.name), in_use)
            yield Sample(POOL_CONNECTIONS, (pool, "idle", tenant.name), idle)
            yield Sample(POOL_LIMIT, (pool, tenant.name), limit)


def _use_of(pool: object) -> tuple[int, int, int]:
    """Connections in use, idle ones, and how many there may be, of an engine's pool."""
    if not isinstance(pool, QueuePool):
        raise TypeError(pool)
    return pool.checkedout(), pool.checkedin(), pool.size()


async def _spares(tenant: Tenant) -> list[Sample]:
    """The spares of each template that the settings name."""
    report = await tenant.spares.report()
    pools = {pool.template: pool for pool in report.templates}
    return [
        Sample(figure, (template, tenant.name), value)
        for template, database in tenant.settings.template_databases.items()
        for figure, value in ((SPARES_READY, pools[database].ready), (SPARES_WANTED, pools[database].wanted))
    ]


async def _sizes(group: Sequence[Tenant]) -> list[Sample]:
    """What the databases of these tenants, who share a server, take there."""
    async with group[0].server.session() as session:
        kinds = {
            database.name: (owner.installation, database.trash)
            for database in await listing.databases(session)
            if (owner := database.owner or database.snapshot) is not None
        }
        sizes = await listing.sizes(session, list(kinds))
    bytes_of: Counter[tuple[str, bool]] = Counter()
    for name, kind in kinds.items():
        bytes_of[kind] += sizes.get(name) or 0
    samples = []
    for tenant in group:
        its = await tenant.jobs.installation.last_id()
        trash, others = bytes_of[its, True], bytes_of[its, False]
        samples.append(Sample(TRASH_BYTES, (tenant.name,), trash))
        samples.append(Sample(DATABASE_BYTES, (tenant.name,), trash + others))
    return samples
