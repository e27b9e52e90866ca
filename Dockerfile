# Tidecast in two flavours: `worker` (the default, no torch) and `train`, which is that and torch.
#
#   docker build -t tidecast .
#   docker build -t tidecast-train --target train .
#
# BASE may be any image with Python 3.11 and glibc; BUILD_BASE and TORCH_BASE may add what pip needs (an index, wheels).
# torch's Linux wheel brings CUDA along: 5 GB. TORCH_INDEX may name an index with its CPU wheels (pytorch.org says where),
# which come to 1 GB.
ARG BASE=python:3.11-slim-bookworm
ARG BUILD_BASE=${BASE}
ARG TORCH_BASE=${BUILD_BASE}

FROM ${BUILD_BASE} AS build
WORKDIR /src
RUN python3 -m venv /opt/tidecast
ENV PATH=/opt/tidecast/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Dependencies first, from their declaration alone: a change of code does not install them again.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
 && pip install -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY schemas schemas
COPY features features
COPY models models
COPY streams streams
RUN pip install --no-deps .
# Ship the compiled kernels, for compiling them takes 20 s of a worker's start. Not from /src, whose files would be taken
# for the installed ones. (Another kind of CPU compiles its own.)
WORKDIR /
ENV NUMBA_CACHE_DIR=/var/cache/tidecast
RUN python -m streams.kernels

FROM ${BASE} AS base
RUN useradd --system --uid 10001 --home-dir /var/lib/tidecast --create-home tidecast \
 && install -d -o tidecast -g tidecast /var/lib/tidecast/registry
ENV PATH=/opt/tidecast/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/tidecast \
    TIDECAST_RUNTIME__METRICS_HOST=0.0.0.0 \
    TIDECAST_RUNTIME__METRICS_PORT=8080 \
    TIDECAST_TRAIN__REGISTRY=/var/lib/tidecast/registry
USER tidecast
WORKDIR /var/lib/tidecast
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidecast"]
CMD ["--help"]

FROM base AS worker
COPY --from=build /opt/tidecast /opt/tidecast
COPY --from=build --chown=tidecast:tidecast /var/cache/tidecast /var/cache/tidecast

# Apart from the environment, so that a change of code neither installs nor ships it again.
FROM ${TORCH_BASE} AS torch
ARG TORCH_INDEX=
WORKDIR /src
RUN python3 -m venv pip
COPY pyproject.toml constraints.txt ./
RUN pip/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['train'], sep='\n')" \
      > requirements.txt \
 && pip/bin/pip install --no-cache-dir --disable-pip-version-check --target /opt/torch \
      ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt -r requirements.txt

FROM worker AS train
COPY --from=torch /opt/torch /opt/torch
ENV PYTHONPATH=/opt/torch

# The last stage is what a plain build makes.
FROM worker
