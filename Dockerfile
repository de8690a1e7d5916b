# Training on NVIDIA GPUs. The host needs Docker, the NVIDIA container toolkit and driver 580 or newer; CUDA comes from JAX's wheels.
#
#   docker build -t agent57_jax .
#   mkdir -p runs
#   docker run --gpus all --stop-timeout 120 -v "$PWD/runs:/runs" agent57_jax train --config=configs/zaxxon.py --workdir=/runs/zaxxon
#   docker run --gpus all -v "$PWD/runs:/runs" agent57_jax evaluate --workdir=/runs/zaxxon
#
# --stop-timeout: `docker stop` kills after 10 seconds, too soon to save a large replay.
# The user in the container has uid 1000; if runs/ is not yours under that number, add --user "$(id -u):$(id -g)".
# Without a GPU: docker build --build-arg LOCK=requirements-cpu.lock -t agent57_jax:cpu . (docs/shipping.md)
FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="agent57_jax" \
      org.opencontainers.image.description="Agent57 and its family on one machine, in JAX" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PYTHONUNBUFFERED=1 \
    # Asks the container toolkit for the driver's CUDA library and nvidia-smi.
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    # A home that any --user may write to: caches of other libraries go there.
    HOME=/home/agent57 \
    # Compiled programs stay in the volume: a container that is started again, or anew, compiles nothing twice.
    JAX_COMPILATION_CACHE_DIR=/runs/.jax_cache

# Qt for EnvPool's Procgen games; its other libraries link to nothing but glibc. The archive keeps only a package's newest version, so none
# is pinned here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libqt5core5a libqt5gui5 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
# Every file that pip installs has its hash in the lock: the same bytes in each build.
ARG LOCK=requirements-cuda.lock
COPY ${LOCK} ./
RUN pip install --no-cache-dir --only-binary :all: --require-hashes -r "${LOCK}"

# Without --workdir a run goes to runs/<config name>, which the link puts into the volume as well.
RUN useradd --uid 1000 --home-dir "${HOME}" agent57 \
    && mkdir -p "${HOME}" /runs \
    && chmod 1777 "${HOME}" /runs \
    && ln -s /runs runs
COPY . .

# By number: Kubernetes' runAsNonRoot takes no name's word.
USER 1000:1000
VOLUME /runs
# The trainer saves and exits on SIGTERM, and Python must be process 1 to receive it.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=10s --start-period=60s --retries=3 CMD ["python", "-m", "agent57_jax", "healthcheck"]
ENTRYPOINT ["python", "-m", "agent57_jax"]
CMD ["--help"]
