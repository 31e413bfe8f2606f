# syntax=docker/dockerfile:1
# Three images of one service: `api` (no torch), `worker` (CPU) and `worker-gpu` (the same with torch's CUDA build).
# Everything but torch is installed by hash from requirements/; see docs/decisions/0002-torch-and-the-lock.md.
ARG PYTHON=3.12.12

# ------------------------------------------------------------------------------------- what all images share
FROM python:${PYTHON}-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/venv/bin:$PATH OMP_NUM_THREADS=1 BIMT_HOME=/data
RUN useradd --create-home --uid 10001 bimt && mkdir /data && chown bimt /data
WORKDIR /app

# ------------------------------------------------------------------------------- environments
# pip compiles every module here: the running image is read-only and would compile them at every start.
FROM base AS environment-api
COPY requirements/api.txt requirements/
RUN python -m venv /opt/venv \
    && pip install --no-cache-dir --require-hashes -r requirements/api.txt \
    && pip check

FROM base AS environment-worker
ARG BIMT_TORCH_SPEC=torch==2.13.0
ARG BIMT_TORCH_INDEX=
COPY requirements/worker.txt requirements/
RUN python -m venv /opt/venv \
    && pip install --no-cache-dir --require-hashes -r requirements/worker.txt \
    && pip install --no-cache-dir ${BIMT_TORCH_INDEX:+--index-url ${BIMT_TORCH_INDEX}} "${BIMT_TORCH_SPEC}" \
    && pip check

# ------------------------------------------------------------------------------------------------------ the images
FROM base AS api
COPY --from=environment-api /opt/venv /opt/venv
COPY pyproject.toml alembic.ini openapi.json ./
COPY bimt_engine bimt_engine
COPY store store
COPY migrations migrations
COPY client client
COPY docs/glossary.md docs/glossary.md
COPY api api
ENV BIMT_HOST=0.0.0.0 BIMT_PORT=8000
USER bimt
EXPOSE 8000
CMD ["python", "-m", "api", "--access-log"]

FROM base AS worker
# The kernel stepper is compiled where it runs; without a compiler training falls back to torch and logs it.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY --from=environment-worker /opt/venv /opt/venv
COPY pyproject.toml ./
COPY bimt_engine bimt_engine
COPY store store
COPY worker worker
# The root is read-only where the compose file starts this: the list of fonts that pictures are drawn with goes here.
ENV MPLCONFIGDIR=/tmp/matplotlib
USER bimt
CMD ["celery", "--app=worker.app", "worker", "--queues=cpu", "--concurrency=1", "--hostname=cpu@%h"]

# The same with torch's CUDA build, which brings its own CUDA libraries; the node brings the driver.
FROM worker AS worker-gpu
CMD ["celery", "--app=worker.app", "worker", "--queues=gpu", "--concurrency=1", "--hostname=gpu@%h"]
