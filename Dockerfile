# syntax=docker/dockerfile:1
# The services and the trainer in one image: the target `cpu`, and `cuda` for NVIDIA GPUs.
# docs/deploy.md says how to run it.

FROM rust:1-bookworm AS source
WORKDIR /src
COPY . .

# What was compiled is kept between builds, in a cache of its own for each set of features.
# The commit goes into the record of every attempt; there is no repository here to ask:
# --build-arg IMPRINT_REVISION=$(git rev-parse HEAD).
FROM source AS build-cpu
ARG IMPRINT_REVISION
RUN --mount=type=cache,id=imprint-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=imprint-cpu,target=/src/target \
    cargo build --release --locked -p imprint-cli -p imprint-trainer \
    && mkdir /out \
    && cp target/release/imprint target/release/imprint-trainer /out/ \
    && strip --strip-debug /out/*

FROM source AS build-cuda
ARG IMPRINT_REVISION
RUN --mount=type=cache,id=imprint-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=imprint-cuda,target=/src/target \
    cargo build --release --locked -p imprint-trainer --features cuda \
    && mkdir /out \
    && cp target/release/imprint-trainer /out/ \
    && strip --strip-debug /out/*

# The compiler of kernels and its headers, which is all that the trainer needs of a CUDA toolkit.
# It asks for a driver of its own version or newer: 580 for 13.0.
FROM debian:bookworm-slim AS nvrtc
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && python3 -m pip install --no-cache-dir --no-deps --target /opt/nvrtc \
        nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 \
    && rm /opt/nvrtc/nvidia/cu13/lib/*.a /opt/nvrtc/nvidia/cu13/lib/*.alt.*

FROM debian:bookworm-slim AS runtime
# curl asks for a service's health.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home --home-dir /var/lib/imprint --shell /usr/sbin/nologin imprint
COPY --from=build-cpu /out/ /usr/local/bin/
USER imprint
ENV IMPRINT_DATA_DIR=/var/lib/imprint
VOLUME /var/lib/imprint
ENTRYPOINT ["imprint"]
CMD ["doctor"]

FROM runtime AS cuda
COPY --from=nvrtc /opt/nvrtc/nvidia/cu13/ /usr/local/cuda/
COPY --from=build-cuda /out/ /usr/local/bin/
ENV CUDA_PATH=/usr/local/cuda LD_LIBRARY_PATH=/usr/local/cuda/lib \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The last target is the one that is built where none is named.
FROM runtime AS cpu
