# One image for every role: the service in one process by default, or `serve`, `worker` and the other commands.
# Needs BuildKit, which is Docker's default since version 23.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# The caches keep what was downloaded and compiled, so that a change compiles little. They are no part of the image,
# hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --release --locked && \
    cp target/release/mapx-embeddings /usr/local/bin/

FROM debian:bookworm-slim
# Providers and brokers with TLS are checked against these authorities.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /usr/local/bin/mapx-embeddings /usr/local/bin/
COPY config/production.toml /etc/mapx-embeddings/
# The model inside the binary wants its licence and notice beside it.
COPY LICENSE models/minilm-static-256-i8/NOTICE /usr/share/doc/mapx-embeddings/
ENV MAPX_CONFIG=/etc/mapx-embeddings/production.toml
# The embedded database's folder, data/, is made in here.
WORKDIR /var/lib/mapx-embeddings
RUN chown 10001:10001 .
# A number, so that Kubernetes can see that it isn't root.
USER 10001:10001
EXPOSE 3000
ENTRYPOINT ["mapx-embeddings"]
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD ["mapx-embeddings", "healthcheck", "http://127.0.0.1:3000"]
