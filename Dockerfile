# syntax=docker/dockerfile:1
# The service on a slim Python: no compiler, no root. See docs/operating.md.

FROM python:3.13-slim-bookworm AS build
# hadolint ignore=DL3008 # security updates of the compiler are wanted, and it is not shipped
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY ext ext
COPY alarmdigest alarmdigest
RUN python -m venv /opt/alarmdigest \
    && /opt/alarmdigest/bin/pip install --no-cache-dir --no-compile '.[nkeys,cassandra,schedule,deliver]'

FROM python:3.13-slim-bookworm
# Fixed numbers, so that a volume keeps its owner over new images.
RUN groupadd --gid 10001 alarmdigest \
    && useradd --uid 10001 --gid alarmdigest --no-create-home --shell /usr/sbin/nologin alarmdigest \
    && install --directory --owner alarmdigest --group alarmdigest --mode 0700 /var/lib/alarmdigest
COPY --from=build /opt/alarmdigest /opt/alarmdigest
# Inside of a container the loopback is nobody else's; publish the port to whom it concerns only.
ENV PATH=/opt/alarmdigest/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ALARMDIGEST_DATA_DIR=/var/lib/alarmdigest \
    ALARMDIGEST_HTTP=0.0.0.0:9595
WORKDIR /var/lib/alarmdigest
VOLUME /var/lib/alarmdigest
USER 10001:10001
EXPOSE 9595
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9595/healthz', timeout=4)"]
ENTRYPOINT ["alarmdigest"]
CMD ["run"]
