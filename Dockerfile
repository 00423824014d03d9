# The services and the trainer in one image: `docker compose up --build`.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p imprint-cli -p imprint-trainer

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --home-dir /var/lib/imprint --shell /usr/sbin/nologin imprint
COPY --from=build /src/target/release/imprint /src/target/release/imprint-trainer /usr/local/bin/
USER imprint
VOLUME /var/lib/imprint
ENV IMPRINT_DATA_DIR=/var/lib/imprint
ENTRYPOINT ["imprint"]
CMD ["doctor"]
