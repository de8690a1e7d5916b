# Training on NVIDIA GPUs. The host needs Docker, the NVIDIA container toolkit and driver 580 or newer; CUDA comes from JAX's wheels.
#
#   docker build -t agent57_jax .
#   mkdir -p runs
#   docker run --gpus all --stop-timeout 120 -v "$PWD/runs:/runs" agent57_jax --config=configs/zaxxon.py --workdir=/runs/zaxxon
#   docker run --gpus all -v "$PWD/runs:/runs" --entrypoint python agent57_jax evaluate.py --workdir=/runs/zaxxon
#
# --stop-timeout: `docker stop` kills after 10 seconds, too soon to save a large replay.
# The user in the container has uid 1000; if runs/ is not yours under that number, add --user "$(id -u):$(id -g)".
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    # Asks the container toolkit for the driver's CUDA library and nvidia-smi.
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    # A home that any --user may write to: caches of JAX and of Python go there.
    HOME=/home/agent57

# EnvPool's Atari and Box2D libraries link to nothing but glibc, so the slim image needs no further Debian package
# (Procgen would: libqt5gui5 and libqt5core5a).
WORKDIR /app
COPY requirements-cuda.lock .
RUN pip install --no-cache-dir --only-binary :all: -r requirements-cuda.lock

# Without --workdir a run goes to runs/<config name>, which the link puts into the volume as well.
RUN useradd --uid 1000 --home-dir "$HOME" agent57 \
    && mkdir -p "$HOME" /runs \
    && chmod 1777 "$HOME" /runs \
    && ln -s /runs runs
COPY . .

USER agent57
VOLUME /runs
# The trainer saves and exits on SIGTERM, and Python must be process 1 to receive it.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "train.py"]
