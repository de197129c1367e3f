# Stage one fills a virtual environment, stage two takes it over without pip and without sources.
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv --without-pip /opt/invoices \
    && pip --python /opt/invoices/bin/python install --no-cache-dir '.[otel,stripe]'

FROM python:3.13-slim
LABEL org.opencontainers.image.title="invoices" \
      org.opencontainers.image.description="An invoicing API whose OpenAPI callbacks are documented and delivered from one declaration" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"

COPY --from=build /opt/invoices /opt/invoices

# The number is fixed, so that a host can give its own folders to this user.
RUN groupadd --gid 10001 invoices \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin invoices \
    && mkdir /data \
    && chown 10001:10001 /data

ENV PATH=/opt/invoices/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INVOICES_HOST=0.0.0.0 \
    INVOICES_DATABASE_URL=sqlite:////data/invoices.db

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
# SIGTERM drains: what is in flight is finished first.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-m", "service.cli.healthcheck"]

ENTRYPOINT ["invoices"]
CMD ["serve"]
