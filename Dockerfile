# ride_duration as a service; docs/deploy.md says how to run it.
#   docker build --tag ride-duration .
# What builds stays in the first stage. What runs is Python, one environment with the versions of constraints.txt, and OpenMP for LightGBM.
# For the same bits next year, name the base by its digest: --build-arg PYTHON=python:3.11-slim-bookworm@sha256:…
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ARG EXTRAS=serve,monitor,postgres
ARG SOURCE_DATE_EPOCH=1767225600
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
# Libraries come first: they are large, and change less often than the code.
COPY settings.ini constraints.txt ./
COPY deploy/image/requirements.py deploy/image/build.txt deploy/image/
RUN python deploy/image/requirements.py settings.ini "${EXTRAS}" > requirements.txt \
 && python -m venv --without-pip /opt/ride-duration \
 && python -m pip --python /opt/ride-duration/bin/python install --no-compile --constraint constraints.txt --requirement requirements.txt
COPY setup.py pyproject.toml README.md LICENSE ./
COPY docs/runbook.md docs/
COPY nbs/runs nbs/runs
COPY ride_duration ride_duration
RUN PIP_CONSTRAINT=deploy/image/build.txt python -m pip wheel --no-deps --wheel-dir dist . \
 && python -m pip --python /opt/ride-duration/bin/python install --no-compile --no-deps dist/*.whl \
 && find /opt/ride-duration/lib -type d -name tests -prune -exec rm -rf {} + \
 && /opt/ride-duration/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/ride-duration/lib

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ride_duration" \
      org.opencontainers.image.description="How long will this New York taxi ride take? Minutes with an honest range, over HTTP." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# The newest libgomp1 of this Debian release: fixes are wanted, and its interface does not change. Nothing is installed in a running container, so pip goes.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
 && python -m pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel \
 && groupadd --gid 10001 ride \
 && useradd --uid 10001 --gid ride --no-log-init --no-create-home --home-dir /var/lib/ride-duration --shell /usr/sbin/nologin ride \
 && install --directory --owner ride --group ride --mode 0750 /var/lib/ride-duration \
 && install --directory --owner ride --group ride --mode 0755 /var/lib/ride-duration-keys
COPY --from=build /opt/ride-duration /opt/ride-duration
COPY deploy/image/enter deploy/image/healthy deploy/image/prepare /opt/ride-duration/bin/
ENV PATH=/opt/ride-duration/bin:${PATH} \
    RIDE_DURATION_HOME=/var/lib/ride-duration \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/ride-duration
VOLUME /var/lib/ride-duration
EXPOSE 8000
# Ready, not merely alive: the models give their golden answers, and the log can be written.
HEALTHCHECK --interval=15s --timeout=8s --start-period=60s --retries=3 CMD ["healthy"]
ENTRYPOINT ["enter"]
CMD ["serve", "--host", "0.0.0.0"]
