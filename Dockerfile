# reconciler with everything it can use: git, ssh, age (built in), the LDAP connector.
#
#   docker build -t reconciler .
#   docker run --read-only --cap-drop ALL -v reconciler:/var/lib/reconciler \
#     -e RECONCILER_REPO=https://git.example.org/integrations.git reconciler
#
# State, caches and temporary files go to /var/lib/reconciler; nothing else is written.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev libldap-dev libsasl2-dev libkrb5-dev \
 && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements-build.lock requirements-ldap.lock ./
RUN python -m venv /build && /build/bin/pip install --require-hashes -r requirements-build.lock
RUN python -m venv /opt/reconciler && /opt/reconciler/bin/pip install --require-hashes -r requirements-ldap.lock
COPY . .
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/reconciler/bin/pip install --no-deps /wheels/*.whl \
 && /opt/reconciler/bin/pip uninstall --yes pip \
 && /opt/reconciler/bin/reconciler --version \
 && /opt/reconciler/bin/python -c "import bonsai, pyrage, pygit2"

FROM python:3.11-slim-bookworm
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      git openssh-client ca-certificates libldap-2.5-0 libsasl2-2 libsasl2-modules libgssapi-krb5-2 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --user-group --home-dir /var/lib/reconciler --create-home reconciler
COPY --from=build /opt/reconciler /opt/reconciler
ENV PATH=/opt/reconciler/bin:$PATH \
    HOME=/var/lib/reconciler \
    TMPDIR=/var/lib/reconciler \
    PYTHONDONTWRITEBYTECODE=1 \
    RECONCILER_STATE_DIR=/var/lib/reconciler/state \
    RECONCILER_LISTEN=0.0.0.0:8750 \
    RECONCILER_LOG_FORMAT=json
VOLUME /var/lib/reconciler
WORKDIR /var/lib/reconciler
USER 10001:10001
# Metrics, health and the status API; they ask for no password, so publish the port to nobody else than may read them.
EXPOSE 8750
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", \
  "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['RECONCILER_LISTEN'].rpartition(':')[2] + '/healthz', timeout=4)"]
ENTRYPOINT ["tini", "--", "reconciler"]
CMD ["run"]
