# An image of backwhen, to run beside a database: docker build -t backwhen .
FROM rust:1-slim-trixie AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY migrations migrations
COPY src src
RUN CARGO_PROFILE_RELEASE_STRIP=symbols cargo build --release --locked --bin backwhen

FROM debian:trixie-slim
# pg_dump must be at least as new as the newest server it dumps, and a recovery replays schema changes on a server that
# backwhen starts. PostgreSQL's own package archive has both for Debian.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates postgresql-common \
    && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
    && apt-get install -y --no-install-recommends postgresql-18 tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /history --shell /usr/sbin/nologin backwhen \
    && install -d -o backwhen -g backwhen /history
COPY --from=build /build/target/release/backwhen /usr/local/bin/backwhen
USER 10001
VOLUME /history
ENV BACKWHEN_HISTORY=/history/main
# Capture stops cleanly on SIGINT and on SIGTERM; SIGINT is the signal of Ctrl-C.
STOPSIGNAL SIGINT
ENTRYPOINT ["backwhen"]
CMD ["--help"]
